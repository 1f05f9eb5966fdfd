//! Interfaces, addresses and routes of this machine, through `ip` of iproute2.

use std::{net::IpAddr, process::Command};

use serde_json::Value;

use crate::Fatal;

fn json(arguments: &[&str]) -> Option<Value> {
    let output = Command::new("ip")
        .arg("-json")
        .args(arguments)
        .output()
        .ok()?;
    let sound = output.status.success() && !output.stdout.is_empty();
    sound.then(|| serde_json::from_slice(&output.stdout).ok())?
}

/// Runs `ip …`; what it complains of is the error.
pub(crate) fn ip(arguments: &[&str]) -> Result<(), String> {
    run("ip", arguments)
}

/// Runs a program; what it complains of is the error.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Whether there is an interface of this name in the namespace that this program runs in. `/sys` may
/// show those of another.
pub(crate) fn exists(name: &str) -> bool {
    json(&["link", "show", name]).is_some()
}

/// All addresses, with the names of their interfaces.
fn addresses() -> Vec<(String, IpAddr)> {
    let found = json(&["address", "show"]).unwrap_or_default();
    let mut all = Vec::new();
    for link in found.as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let parsed = address["local"].as_str().and_then(|text| text.parse().ok());
            all.extend(parsed.map(|address| (name.to_owned(), address)));
        }
    }
    all
}

/// Whether this machine has the address.
pub(crate) fn is_local(address: IpAddr) -> bool {
    addresses().iter().any(|(_, own)| *own == address)
}

/// The interface that has the address.
pub(crate) fn with_address(address: IpAddr) -> Option<String> {
    let found = addresses().into_iter().find(|(_, own)| *own == address);
    found.map(|(name, _)| name)
}

/// The first address of an interface, IPv4 before IPv6, as K3s takes it for the node.
pub(crate) fn first_address(name: &str) -> Result<IpAddr, Fatal> {
    if !exists(name) {
        return Err(Fatal::new(format!(
            "error getting interface {name}: route ip+net: no such network interface"
        )));
    }
    let mut own: Vec<IpAddr> = addresses()
        .into_iter()
        .filter(|(link, address)| link == name && !is_link_local(address))
        .map(|(_, address)| address)
        .collect();
    own.sort_by_key(IpAddr::is_ipv6);
    let none = || Fatal::new(format!("can't find ip for interface {name}"));
    own.first().copied().ok_or_else(none)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The address of the interface with the default route, else the first that is no loopback.
pub(crate) fn default_address() -> Result<IpAddr, Fatal> {
    let routes = json(&["route", "show", "default"]).unwrap_or_default();
    if let Some(interface) = routes[0]["dev"].as_str() {
        return first_address(interface);
    }
    let mut usable = addresses()
        .into_iter()
        .map(|(_, address)| address)
        .filter(|address| !address.is_loopback() && !is_link_local(address))
        .collect::<Vec<_>>();
    usable.sort_by_key(IpAddr::is_ipv6);
    let none = || Fatal::new("unable to select an IP from default routes.");
    usable.first().copied().ok_or_else(none)
}
