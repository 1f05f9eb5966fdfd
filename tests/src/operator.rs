//! Operators with their bundles, and what they ask over HTTPS.

use std::{fs::OpenOptions, io::Write as _, time::Duration};

use node_api::OVERLAY_API_PORT as API_PORT;

use crate::{
    host::Host,
    process::{Output, Process},
    wait::wait_until,
};

/// An answer comes within this, or the connection is at its end.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// A directory with an operator's key and certificate that all hosts see.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// As hosts name it.
    pub dir: String,
}

impl Bundle {
    /// The flags that make curl show the certificate.
    pub fn curl_flags(&self) -> String {
        let dir = &self.dir;
        format!("--cacert {dir}/ca.pem --cert {dir}/cert.pem --key {dir}/key.pem")
    }
}

impl Host {
    /// Has this host's daemon make an operator, with a key that curl and openssl can read.
    #[track_caller]
    pub fn operator(&self, name: &str, role: &str, flags: &[&str]) -> Bundle {
        let dir = format!("/run/lab/files/{name}");
        let command = [
            "operator", "create", name, "--role", role, "--out", &dir, "--p256",
        ];
        self.shoal(&[command.as_slice(), flags].concat()).ok();
        Bundle { dir }
    }

    /// Asks a node's API over the overlay; fails where the connection or the answer does.
    #[track_caller]
    pub fn ask_api(&self, bundle: &Bundle, address: &str, method: &str, path: &str) -> Output {
        self.sh(&format!(
            "curl -sS --max-time 20 {} -X {method} 'https://[{address}]:{API_PORT}{path}'",
            bundle.curl_flags()
        ))
    }
}

/// One connection to a node's API that stays open between requests.
pub struct Standing {
    host: Host,
    _process: Process,
}

const QUESTIONS: &str = "/tmp/standing.questions";
const ANSWERS: &str = "/tmp/standing.answers";

impl Standing {
    /// Opens the one standing connection of a host.
    #[track_caller]
    pub fn open(host: &Host, address: &str, bundle: &Bundle) -> Self {
        let dir = &bundle.dir;
        let script = format!(
            "touch {QUESTIONS}; sed '1,/END/d' {dir}/cert.pem > /tmp/standing.chain; tail -f {QUESTIONS} | openssl s_client -quiet \
             -connect '[{address}]:{API_PORT}' -CAfile {dir}/ca.pem -cert {dir}/cert.pem \
             -cert_chain /tmp/standing.chain -key {dir}/key.pem > {ANSWERS}"
        );
        Self {
            host: host.clone(),
            _process: host.spawn(&["bash", "-c", &script]),
        }
    }

    /// Sends a GET on it and returns the answer, head and body.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let before = self.answers().len();
        let mut questions = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.host.disk(QUESTIONS))
            .expect("the host's disk is writable");
        write!(questions, "GET {path} HTTP/1.1\r\nHost: shoal\r\n\r\n")
            .expect("a file takes a line");
        wait_until(ANSWER_DEADLINE, "the standing connection answers", || {
            self.answers()[before..].ends_with('}')
        });
        self.answers().split_off(before)
    }

    fn answers(&self) -> String {
        std::fs::read_to_string(self.host.disk(ANSWERS)).unwrap_or_default()
    }
}
