//! How far a pull is.
//!
//! Decides: what of dockerd's many lines is news. Never: where it is shown.

use std::collections::BTreeMap;

use node_api::types::PullProgress;

use crate::table::bytes;

/// Layers remembered; an image has at most 127 (overlayfs).
const LAYERS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Layer {
    status: String,
    current_bytes: u64,
    total_bytes: u64,
    done: bool,
}

/// What is known of a pull.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    layers: BTreeMap<String, Layer>,
    last: String,
}

impl Pulled {
    /// Takes a line in. Returns it in words if it tells more than another number of bytes.
    pub(crate) fn take(&mut self, line: &PullProgress) -> Option<String> {
        let status = line.status.clone().unwrap_or_default();
        let Some(id) = &line.id else {
            self.last.clone_from(&status);
            return (!status.is_empty()).then_some(status);
        };
        if self.layers.len() == LAYERS_MAX && !self.layers.contains_key(id) {
            return None;
        }
        let layer = self.layers.entry(id.clone()).or_default();
        // dockerd counts the same bytes again while it unpacks; only the download is counted here.
        if status == "Downloading" {
            layer.current_bytes = line.current_bytes.unwrap_or(layer.current_bytes);
            layer.total_bytes = line.total_bytes.unwrap_or(layer.total_bytes);
        }
        if matches!(status.as_str(), "Download complete" | "Pull complete") {
            layer.current_bytes = layer.total_bytes;
        }
        layer.done = matches!(status.as_str(), "Pull complete" | "Already exists");
        if layer.status == status {
            return None;
        }
        layer.status.clone_from(&status);
        Some(format!("{id}: {status}"))
    }

    /// All of it on one line.
    pub(crate) fn summary(&self) -> String {
        if self.layers.is_empty() {
            return self.last.clone();
        }
        let done = self.layers.values().filter(|layer| layer.done).count();
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).fold(0, u64::saturating_add);
        format!(
            "{done} of {} layers, {} of {}",
            self.layers.len(),
            bytes(sum(|layer| layer.current_bytes)),
            bytes(sum(|layer| layer.total_bytes)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: Option<&str>, status: &str, of: Option<(u64, u64)>) -> PullProgress {
        PullProgress {
            id: id.map(Into::into),
            status: Some(status.into()),
            current_bytes: of.map(|(current, _)| current),
            total_bytes: of.map(|(_, total)| total),
            error: None,
        }
    }

    #[test]
    fn only_changes_are_news_and_only_downloads_are_counted() {
        let mut pulled = Pulled::default();
        let said = pulled.take(&line(None, "Pulling from library/x", None));
        assert_eq!(said.as_deref(), Some("Pulling from library/x"));
        assert_eq!(pulled.summary(), "Pulling from library/x");
        let first = pulled.take(&line(Some("aa"), "Downloading", Some((1_000, 4_000))));
        assert_eq!(first.as_deref(), Some("aa: Downloading"));
        assert_eq!(
            pulled.take(&line(Some("aa"), "Downloading", Some((2_000, 4_000)))),
            None
        );
        pulled.take(&line(Some("bb"), "Already exists", None));
        assert_eq!(pulled.summary(), "1 of 2 layers, 2.0 kB of 4.0 kB");
        pulled.take(&line(Some("aa"), "Extracting", Some((1, 4_000))));
        assert_eq!(pulled.summary(), "1 of 2 layers, 2.0 kB of 4.0 kB");
        pulled.take(&line(Some("aa"), "Pull complete", None));
        assert_eq!(pulled.summary(), "2 of 2 layers, 4.0 kB of 4.0 kB");
    }
}
