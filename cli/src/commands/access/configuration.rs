//! The configuration of a device, as wg-quick and the WireGuard apps read it.
//!
//! Decides the text, and how it becomes a QR code. Never: makes or keeps a key.

use node_api::types::AccessGrantDetails;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2, types::QrError};

use crate::failure::Explained;

/// Seconds between keepalives: mappings of routers for UDP may end after 30 (RFC 4787,
/// requirement 5), and the mesh may want to reach the device.
const KEEPALIVE_S: u16 = 25;

/// Why there is no QR code.
#[derive(Debug, thiserror::Error)]
#[error("the configuration does not fit into a QR code")]
pub(super) struct TooLongError {
    #[from]
    source: QrError,
}

impl Explained for TooLongError {
    fn code(&self) -> &'static str {
        "QrCodeTooLongError"
    }

    fn hint(&self) -> String {
        "revoke the grant, and make it again with --out FILE".into()
    }
}

/// What goes into the file. Without a private key, which is then the device's own, the place for it
/// is marked. Nothing but the grant's name is text that somebody wrote, and that is a DNS label.
pub(super) fn text(
    details: &AccessGrantDetails,
    private_key: Option<&str>,
    endpoint: Option<&str>,
) -> Option<String> {
    let (grant, tunnel) = (&details.grant, details.tunnel.as_ref()?);
    let private_key = private_key.map_or_else(
        || "# PrivateKey = the one that belongs to the grant's public key".to_owned(),
        |key| format!("PrivateKey = {key}"),
    );
    let endpoint = endpoint.or(tunnel.endpoints.first().map(String::as_str));
    let endpoint = endpoint.map_or_else(
        || format!("# Endpoint = where {} can be reached", grant.gateway),
        |endpoint| format!("Endpoint = {endpoint}"),
    );
    Some(format!(
        "# {}: access to network {} by way of {}\n\
         [Interface]\n\
         {private_key}\n\
         Address = {}/128, {}/32\n\
         MTU = {}\n\
         \n\
         [Peer]\n\
         PublicKey = {}\n\
         {endpoint}\n\
         AllowedIPs = {}\n\
         PersistentKeepalive = {KEEPALIVE_S}\n",
        grant.name,
        grant.network,
        grant.gateway,
        grant.ipv6,
        grant.ipv4,
        tunnel.mtu,
        tunnel.public_key,
        tunnel.allowed_ips.join(", "),
    ))
}

/// The configuration as a picture of half blocks, dark on light, whatever the terminal's colours:
/// apps read what is darker than its margin.
pub(super) fn qr_code(text: &str) -> Result<String, TooLongError> {
    let needed = text.lines().filter(|line| !line.starts_with('#'));
    let needed: Vec<&str> = needed.filter(|line| !line.is_empty()).collect();
    let code = QrCode::with_error_correction_level(needed.join("\n"), EcLevel::L)?;
    // Terminals are light on dark: what is light in the code is drawn.
    Ok(code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

#[cfg(test)]
mod tests {
    use node_api::types::{AccessGrantView, AccessTunnel};

    use super::*;

    pub(crate) fn details() -> AccessGrantDetails {
        AccessGrantDetails {
            grant: AccessGrantView {
                name: "laptop".into(),
                network: "default".into(),
                gateway: "n1".into(),
                public_key: "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=".into(),
                ipv6: "fd00::7".parse().unwrap(),
                ipv4: "100.96.0.7".parse().unwrap(),
                state: "active".into(),
                expires_at_ms: None,
                created_at_ms: 0,
            },
            tunnel: Some(AccessTunnel {
                public_key: "bm90IGEga2V5".into(),
                endpoints: vec!["203.0.113.5:7441".into(), "10.0.0.5:7441".into()],
                allowed_ips: vec!["fd00::/64".into(), "100.96.0.0/16".into()],
                mtu: 1420,
            }),
            device_endpoint: None,
            handshake_s: None,
            warnings: vec![],
        }
    }

    #[test]
    fn a_configuration_is_what_wg_quick_reads() {
        insta::assert_snapshot!(text(&details(), Some("c2VjcmV0"), None).unwrap(), @r"
        # laptop: access to network default by way of n1
        [Interface]
        PrivateKey = c2VjcmV0
        Address = fd00::7/128, 100.96.0.7/32
        MTU = 1420

        [Peer]
        PublicKey = bm90IGEga2V5
        Endpoint = 203.0.113.5:7441
        AllowedIPs = fd00::/64, 100.96.0.0/16
        PersistentKeepalive = 25
        ");
    }

    #[test]
    fn what_is_not_known_is_marked_and_what_is_given_is_taken() {
        let mut details = details();
        let given = text(&details, None, Some("vpn.example.org:7441")).unwrap();
        assert!(given.contains("\n# PrivateKey = "), "{given}");
        assert!(
            given.contains("\nEndpoint = vpn.example.org:7441\n"),
            "{given}"
        );
        details.tunnel.as_mut().unwrap().endpoints.clear();
        let nowhere = text(&details, None, None).unwrap();
        assert!(nowhere.contains("\n# Endpoint = where n1"), "{nowhere}");
        details.tunnel = None;
        assert_eq!(text(&details, None, None), None, "no gateway");
    }

    #[test]
    fn a_qr_code_has_every_line_but_the_comments_and_a_margin() {
        let text = text(&details(), Some("c2VjcmV0"), None).unwrap();
        let picture = qr_code(&text).unwrap();
        let lines: Vec<&str> = picture.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        // Two modules a line; four light modules are the margin (ISO/IEC 18004, 5.3.8).
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines[..2].iter().all(|line| line.chars().all(|c| c == '█')));
        assert!(qr_code(&"x".repeat(3000)).is_err(), "2953 bytes at most");
    }
}
