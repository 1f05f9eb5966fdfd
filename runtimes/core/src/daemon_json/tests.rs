//! Claims about dockerd's configuration.

use proptest::prelude::*;

use super::*;

fn layout() -> HostLayout {
    HostLayout {
        socket: "/var/run/docker.sock".into(),
        pidfile: "/var/run/docker.pid".into(),
        data_root: "/var/lib/docker".into(),
        exec_root: "/var/run/docker".into(),
        tls_ca: "/t/ca.pem".into(),
        tls_cert: "/t/cert.pem".into(),
        tls_key: "/t/key.pem".into(),
    }
}

fn merge(overrides: &[Override]) -> Result<Value, MergeError> {
    let layout = layout();
    let base = Base {
        layout: &layout,
        listen: "fd00:5::1".parse().unwrap(),
        mtu: None,
        dns: &[],
    };
    merged(&base, overrides)
}

fn wish(layer: Layer, category_position: u16, priority: u16, document: Value) -> Override {
    Override {
        name: format!("{layer:?}-{category_position}-{priority}"),
        layer,
        category_position,
        priority,
        document,
    }
}

#[test]
fn the_base_listens_on_the_overlay_and_the_socket_only_and_verifies_clients() {
    let document = merge(&[]).unwrap();
    assert_eq!(
        document["hosts"],
        json!(["unix:///var/run/docker.sock", "tcp://[fd00:5::1]:2376"])
    );
    assert_eq!(document["tlsverify"], json!(true));
    assert_eq!(document["live-restore"], json!(true));
    assert!(!render(&document).contains("0.0.0.0"));
    assert!(document.get("mtu").is_none());
}

#[test]
fn objects_merge_while_arrays_and_scalars_replace() {
    let document = merge(&[
        wish(
            Layer::Config,
            1,
            1,
            json!({"log-opts": {"max-file": "9"}, "dns": ["1.1.1.1"]}),
        ),
        wish(
            Layer::Config,
            1,
            2,
            json!({"log-opts": {"labels": "a"}, "dns": ["9.9.9.9"], "debug": true}),
        ),
    ])
    .unwrap();
    assert_eq!(
        document["log-opts"],
        json!({"max-size": "10m", "max-file": "9", "labels": "a"})
    );
    assert_eq!(document["dns"], json!(["9.9.9.9"]));
    assert_eq!(document["debug"], json!(true));
}

#[test]
fn category_outweighs_priority_and_layer_outweighs_both() {
    let low = wish(Layer::Config, 1, 999, json!({"mtu": 1}));
    let high = wish(Layer::Config, 2, 0, json!({"mtu": 2}));
    assert_eq!(
        merge(&[high.clone(), low.clone()]).unwrap()["mtu"],
        json!(2)
    );
    let subscription = wish(Layer::Subscription, 9, 9, json!({"mtu": 3}));
    assert_eq!(
        merge(&[high.clone(), subscription]).unwrap()["mtu"],
        json!(2)
    );
    let node = wish(Layer::Node, 0, 0, json!({"mtu": 4}));
    assert_eq!(merge(&[node, high, low]).unwrap()["mtu"], json!(4));
}

#[test]
fn listeners_and_tls_cannot_be_overridden_in_any_spelling() {
    for key in [
        "hosts",
        "Hosts",
        "HOSTS",
        "tls",
        "tlsverify",
        "TLSVerify",
        "tlscacert",
        "tlscert",
        "tlskey",
        "pidfile",
    ] {
        let error = merge(&[wish(Layer::Node, 1, 1, json!({key: false}))]).unwrap_err();
        assert_eq!(error.code(), "ProtectedDaemonKeyError", "{key}");
        assert!(error.hint().contains(key));
    }
}

#[test]
fn an_override_that_is_no_object_is_refused() {
    let error = merge(&[wish(Layer::Node, 1, 1, json!(["hosts"]))]).unwrap_err();
    assert_eq!(error.code(), "InvalidDaemonConfigError");
}

#[test]
fn another_log_driver_does_not_inherit_the_file_limits() {
    let document = merge(&[wish(Layer::Config, 1, 1, json!({"log-driver": "journald"}))]).unwrap();
    assert!(document.get("log-opts").is_none());
}

#[test]
fn only_what_dockerd_reloads_spares_it_the_restart() {
    let base = merge(&[]).unwrap();
    let with = |document| merge(&[wish(Layer::Node, 1, 1, document)]).unwrap();
    assert_eq!(change_between(&base, &base), Change::None);
    assert_eq!(
        change_between(&base, &with(json!({"debug": true}))),
        Change::Reload
    );
    assert_eq!(
        change_between(&base, &with(json!({"mtu": 1380}))),
        Change::Restart
    );
    assert_eq!(
        change_between(&base, &with(json!({"debug": true, "mtu": 1380}))),
        Change::Restart
    );
    // Going back to a default needs a restart: dockerd keeps the old value on SIGHUP.
    assert_eq!(
        change_between(&with(json!({"debug": true})), &base),
        Change::Restart
    );
}

#[test]
fn where_another_configuration_keeps_its_data_is_read_and_nothing_else_of_it() {
    for (text, expected) in [
        (r#"{"debug": true, "data-root": "/d"}"#, Some("/d")),
        (r#"{"graph": "/d"}"#, Some("/d")),
        (r#"{"debug": true}"#, None),
        (r#"{"data-root": ""}"#, None),
        (r#"{"data-root": 7}"#, None),
        // dockerd would not start with it.
        (r#"{"data-root": "/d",}"#, None),
        ("[]", None),
        ("", None),
    ] {
        assert_eq!(data_root_of(text).as_deref(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn the_order_of_arrival_never_matters(
        wishes in proptest::collection::vec((0u8..3, 0u16..3, 0u16..3, 0u32..9), 0..6),
        seed in any::<u64>(),
    ) {
        let mut overrides: Vec<_> = wishes.iter().enumerate().map(|(n, (layer, category, priority, value))| {
            let layer = [Layer::Subscription, Layer::Config, Layer::Node][usize::from(*layer)];
            let mut wish = wish(layer, *category, *priority, json!({"mtu": value, "labels": {"n": n}}));
            wish.name = format!("{n}");
            wish
        }).collect();
        let before = merge(&overrides).unwrap();
        let shift = usize::try_from(seed % 6).unwrap().min(overrides.len());
        overrides.rotate_left(shift);
        overrides.reverse();
        prop_assert_eq!(merge(&overrides).unwrap(), before);
    }
}
