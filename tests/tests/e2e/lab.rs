//! The lab itself keeps its promises: without them no other test here would mean anything.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    path::Path,
    process::Command,
    time::Duration,
};

use shoal_tests::{Host, IMAGE, Lab, PAGE, image_tar, wait_until};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn two_hosts_reach_each_other_until_the_link_is_cut() {
    let Some(lab) = Lab::for_test("link") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    assert!(answers_ping(&a, &b.ipv4()));
    assert!(answers_ping(&a, &b.ipv6()));
    b.cut();
    assert!(!answers_ping(&a, &b.ipv4()));
    assert!(!answers_ping(&b, &a.ipv4()));
    b.heal();
    wait_until(SOON, "the healed link carries a ping", || {
        answers_ping(&a, &b.ipv4())
    });
}

#[test]
fn hosts_share_no_files_names_or_processes() {
    let Some(lab) = Lab::for_test("private") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    for path in ["/etc/x", "/run/x", "/var/lib/x", "/var/log/x", "/tmp/x"] {
        a.sh(&format!("echo secret > {path}")).ok();
        assert!(!b.run(&["test", "-e", path]).success(), "{path} leaked");
        assert!(
            !path_is_there(path),
            "{path} leaked into the machine itself"
        );
    }
    assert_eq!(a.run(&["hostname"]).ok().text(), "a");
    assert_eq!(b.run(&["hostname"]).ok().text(), "b");
    let stray = a.spawn(&["sleep", "1000"]);
    assert!(!b.sh("ps ax | grep -v grep | grep 'sleep 1000'").success());
    assert!(stray.is_running());
}

#[test]
fn a_plug_that_is_pulled_ends_everything_but_the_disk() {
    let Some(lab) = Lab::for_test("power") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.sh("echo kept > /var/lib/x; echo kept > /etc/x; echo lost > /run/x")
        .ok();
    let process = a.spawn(&["sleep", "1000"]);
    a.power_off();
    assert!(!process.is_running());
    assert!(!answers_ping(&b, &a.ipv4()));
    a.power_on();
    assert_eq!(a.sh("cat /var/lib/x /etc/x").ok().text(), "kept\nkept");
    assert!(!a.run(&["test", "-e", "/run/x"]).success());
    wait_until(SOON, "the host is back on the wire", || {
        answers_ping(&b, &a.ipv4())
    });
}

#[test]
fn orphans_are_reaped_as_on_a_real_machine() {
    let Some(lab) = Lab::for_test("orphans") else {
        return;
    };
    let a = lab.host("a");
    a.sh("(setsid sleep 0.05 &)").ok();
    wait_until(SOON, "no zombie is left", || {
        !a.sh("ps -eo stat,comm | grep -E '^Z|sleep'").success()
    });
}

#[test]
fn a_lab_leaves_nothing_behind_even_after_a_panic() {
    let Some(lab) = Lab::for_test("leftover") else {
        return;
    };
    let links_before = links();
    let dir = lab.dir().to_owned();
    // Unwinding is how a failed test leaves its lab.
    let failed = catch_unwind(AssertUnwindSafe(move || {
        let lab = lab;
        let a = lab.host("a");
        let process = a.spawn(&["sleep", "1000"]);
        let pid = a.init().expect("it is on");
        let pids = [pid, process.pid()];
        panic_any(pids);
    }));
    let pids = *(failed.expect_err("it panics"))
        .downcast::<[u32; 2]>()
        .expect("it panics with two process ids");
    for pid in pids {
        assert!(!path_is_there(&format!("/proc/{pid}")), "{pid} is left");
    }
    assert!(!dir.exists(), "{} is left", dir.display());
    assert_eq!(links(), links_before);
}

#[test]
fn a_real_dockerd_runs_a_container_in_a_host() {
    let Some(lab) = Lab::for_test("dockerd") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let dockerd = a.spawn(&["dockerd", "--pidfile", "/run/docker.pid"]);
    wait_until(Duration::from_secs(30), "dockerd answers", || {
        assert!(dockerd.is_running(), "dockerd ended");
        a.run(&["docker", "version"]).success()
    });
    image_tar(&lab.files().join("image.tar"));
    a.run(&["docker", "import", "/run/lab/files/image.tar", IMAGE])
        .ok();
    a.sh(&format!(
        "docker run -d --name web -p 8080:80 {IMAGE} httpd -f -p 80 -h /www"
    ))
    .ok();
    let url = format!("http://{}:8080/", a.ipv4());
    wait_until(SOON, "the page is there", || {
        b.run(&["curl", "-sS", "--max-time", "2", &url]).stdout == PAGE
    });
    let driver = a.run(&["docker", "info", "-f", "{{.Driver}}"]).ok();
    assert_eq!(driver.text(), "overlay2", "slower drivers hide real faults");
    let id = a.run(&["docker", "inspect", "-f", "{{.Id}}", "web"]).ok();
    drop(lab);
    let left = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "4", "-name", id.text()])
        .output()
        .expect("find is installed");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

fn answers_ping(from: &Host, address: &str) -> bool {
    from.run(&["ping", "-c", "1", "-W", "1", address]).success()
}

fn path_is_there(path: &str) -> bool {
    Path::new(path).exists()
}

/// The interfaces of the machine itself.
fn links() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").expect("sysfs is mounted");
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
