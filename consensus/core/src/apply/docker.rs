//! Docker hosts: their rows, phases and certificates (SPEC 4.3, 4.6).

use std::net::Ipv6Addr;

use super::{
    Change, certificates, check_name, containers, done, excerpt, invalid, modules,
    too_large as refuse_large,
};
use crate::{
    Applied, Assignment, CertificateProfile, CertificateRecord, DockerHost, DockerPhase, EventKind,
    Holder, IssuedCertificate, LeafFingerprint, Module, NewCertificate, NodeId, Refusal,
    limits::{
        CERTIFICATE_BYTES_MAX, CSR_BYTES_MAX, EXTERNAL_HOSTS_MAX, REASON_BYTES_MAX, TEXT_BYTES_MAX,
    },
};

/// Whether dockerd runs or is about to on this node.
pub(super) fn is_active(change: &Change<'_>, id: &NodeId) -> bool {
    change
        .agreed()
        .docker_hosts
        .get(id)
        .is_some_and(|host| host.phase != DockerPhase::Stopped)
}

/// Makes the node's row say what its assignments say.
pub(super) fn settle(change: &mut Change<'_>, id: &NodeId, wanted: bool) {
    let idle = change
        .agreed()
        .docker_hosts
        .get(id)
        .is_none_or(|host| matches!(host.phase, DockerPhase::Stopped | DockerPhase::Stopping));
    let now = change.time;
    if wanted && idle {
        let host = change
            .agreed_mut()
            .docker_hosts
            .entry(id.clone())
            .or_insert_with(|| DockerHost {
                phase: DockerPhase::Assigned,
                since: now,
                listen: None,
                version: None,
                certificate: None,
                provisioned: false,
            });
        host.phase = DockerPhase::Assigned;
        host.provisioned = false;
        host.since = now;
        change.event(
            EventKind::DockerAssigned,
            Some(id),
            [("module", "docker-engine".to_owned())],
        );
        containers::settle(change, id);
    } else if !wanted && !idle {
        set_phase(change, id, DockerPhase::Stopping);
    }
}

fn set_phase(change: &mut Change<'_>, id: &NodeId, phase: DockerPhase) {
    let now = change.time;
    if let Some(host) = change.agreed_mut().docker_hosts.get_mut(id) {
        host.phase = phase;
        host.since = now;
    }
}

pub(super) fn report(
    change: &mut Change<'_>,
    actor: &NodeId,
    phase: &DockerPhase,
    listen: Option<Ipv6Addr>,
) -> Applied {
    let Some(host) = change.agreed().docker_hosts.get(actor) else {
        return Err(Refusal::DockerHostUnknown {
            node: change.agreed().name_of(actor),
        });
    };
    check_report(phase)?;
    check_listen(change, actor, listen)?;
    let leaving = matches!(host.phase, DockerPhase::Stopping | DockerPhase::Stopped);
    // A report that crossed an unassignment on its way must not bring the host back.
    if leaving && *phase != DockerPhase::Stopped {
        return done();
    }
    // Likewise a late "stopped" must not end a host that was assigned anew.
    if !leaving && *phase == DockerPhase::Stopped {
        return done();
    }
    let is_news = !host.phase.tells_the_same(phase);
    let provisioned = matches!(phase, DockerPhase::Ready { .. }) && !host.provisioned;
    let now = change.time;
    if let Some(host) = change.agreed_mut().docker_hosts.get_mut(actor) {
        host.phase = phase.clone();
        host.listen = listen.or(host.listen);
        if is_news {
            host.since = now;
        }
        if let DockerPhase::Ready { version } = phase {
            host.version = Some(version.clone());
            host.provisioned = true;
        }
    }
    if is_news {
        report_event(change, actor, phase);
    }
    if provisioned {
        let endpoint = change
            .agreed()
            .docker_hosts
            .get(actor)
            .and_then(DockerHost::api_endpoint);
        change.event(
            EventKind::DockerProvisioned,
            Some(actor),
            [("api_endpoint", endpoint.unwrap_or_default())],
        );
    }
    done()
}

/// A host listens on an overlay address of its own; clients are sent wherever it says.
fn check_listen(
    change: &Change<'_>,
    actor: &NodeId,
    listen: Option<Ipv6Addr>,
) -> Result<(), Refusal> {
    let Some(listen) = listen else { return Ok(()) };
    let mut own = change
        .agreed()
        .peers
        .iter()
        .filter(|((_, id), _)| id == actor);
    if own.any(|(_, peer)| peer.ipv6 == listen) {
        return Ok(());
    }
    let rule = "an overlay address of the node itself";
    Err(invalid("listen address", &listen.to_string(), rule))
}

fn check_report(phase: &DockerPhase) -> Result<(), Refusal> {
    let too_large = |what: &str, limit: usize| Err(refuse_large(what, limit));
    match phase {
        DockerPhase::WantsCert { csr } if csr.len() > CSR_BYTES_MAX => {
            too_large("a signing request", CSR_BYTES_MAX)
        }
        DockerPhase::Ready { version } if version.len() > TEXT_BYTES_MAX => {
            too_large("a version", TEXT_BYTES_MAX)
        }
        DockerPhase::Failed { reason, code, .. }
            if reason.len() + code.len() > REASON_BYTES_MAX =>
        {
            too_large("a reason", REASON_BYTES_MAX)
        }
        DockerPhase::Assigned | DockerPhase::Stopping => {
            let rule = "a phase that the node itself reaches";
            Err(invalid("report", phase.as_str(), rule))
        }
        DockerPhase::Installing
        | DockerPhase::WantsCert { .. }
        | DockerPhase::WantsConfig
        | DockerPhase::Ready { .. }
        | DockerPhase::Stopped
        | DockerPhase::Drained
        | DockerPhase::Failed { .. } => Ok(()),
    }
}

fn report_event(change: &mut Change<'_>, id: &NodeId, phase: &DockerPhase) {
    match phase {
        DockerPhase::Installing => change.event(EventKind::DockerInstalling, Some(id), []),
        DockerPhase::WantsCert { .. } => change.event(EventKind::DockerWantsCert, Some(id), []),
        DockerPhase::Ready { version } => {
            change.event(
                EventKind::DockerReady,
                Some(id),
                [("version", version.clone())],
            );
        }
        DockerPhase::Stopped | DockerPhase::Drained => {
            change.event(EventKind::DockerStopped, Some(id), []);
        }
        DockerPhase::Failed { reason, code, .. } => change.event(
            EventKind::DockerFailed,
            Some(id),
            [("reason", reason.clone()), ("code", code.clone())],
        ),
        DockerPhase::Assigned | DockerPhase::WantsConfig | DockerPhase::Stopping => {}
    }
}

pub(super) fn cert_signed(
    change: &mut Change<'_>,
    actor: &NodeId,
    node: &NodeId,
    certificate: &IssuedCertificate,
) -> Applied {
    change.require_server(actor)?;
    let name = change.agreed().name_of(node);
    let Some(host) = change.agreed().docker_hosts.get(node) else {
        return Err(Refusal::DockerHostUnknown { node: name });
    };
    // The node may have made a newer request since; the answer to the old one is of no use.
    if !matches!(&host.phase, DockerPhase::WantsCert { csr } if *csr == certificate.csr) {
        return done();
    }
    if certificate.leaf.len() > CERTIFICATE_BYTES_MAX {
        return Err(refuse_large("a certificate", CERTIFICATE_BYTES_MAX));
    }
    let new = NewCertificate {
        serial: certificate.serial.clone(),
        record: CertificateRecord {
            holder: Holder::Node(node.clone()),
            profile: CertificateProfile::DockerServer,
            issuer: certificate.issuer.clone(),
            fingerprint: LeafFingerprint::of(&certificate.leaf),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        },
    };
    certificates::check(change, actor, &new)?;
    certificates::record(change, &new);
    if let Some(host) = change.agreed_mut().docker_hosts.get_mut(node) {
        host.certificate = Some(certificate.clone());
    }
    set_phase(change, node, DockerPhase::WantsConfig);
    change.event(
        EventKind::DockerCertSigned,
        Some(node),
        [("serial", certificate.serial.clone())],
    );
    done()
}

pub(super) fn decommission(change: &mut Change<'_>, node: &str) -> Applied {
    let id = change.find_node(node)?;
    if !change.agreed().docker_hosts.contains_key(&id) {
        return Err(Refusal::DockerHostUnknown {
            node: change.agreed().name_of(&id),
        });
    }
    modules::refuse_if_selected(change, &id, Module::DockerEngine)?;
    let assignment = Assignment::to_node(Module::DockerEngine, id.clone());
    change.agreed_mut().assignments.remove(&assignment);
    forget(change, &id);
    done()
}

/// Removes the row and revokes its certificates. The node sees the row gone and stops dockerd.
pub(super) fn forget(change: &mut Change<'_>, id: &NodeId) {
    if change.agreed_mut().docker_hosts.remove(id).is_none() {
        return;
    }
    let holder = Holder::Node(id.clone());
    certificates::revoke(change, |_, record| {
        record.holder == holder && record.profile == CertificateProfile::DockerServer
    });
    change.event(EventKind::DockerDecommissioned, Some(id), []);
}

pub(super) fn register(change: &mut Change<'_>, name: &str, endpoint: &str) -> Applied {
    check_name("Docker host name", name)?;
    let known = endpoint.len() <= TEXT_BYTES_MAX
        && ["tcp://", "unix://", "ssh://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme));
    if !known {
        let rule = "tcp://…, unix://… or ssh://…";
        return Err(invalid("Docker endpoint", endpoint, rule));
    }
    let agreed = change.agreed();
    if agreed.external_docker_hosts.contains_key(name) || agreed.find_node(name).is_some() {
        return Err(Refusal::DockerHostExists {
            name: name.to_owned(),
        });
    }
    if agreed.external_docker_hosts.len() >= EXTERNAL_HOSTS_MAX {
        let what = "the number of external hosts";
        return Err(refuse_large(what, EXTERNAL_HOSTS_MAX));
    }
    change
        .agreed_mut()
        .external_docker_hosts
        .insert(name.to_owned(), endpoint.to_owned());
    done()
}

pub(super) fn unregister(change: &mut Change<'_>, name: &str) -> Applied {
    if !change.agreed().external_docker_hosts.contains_key(name) {
        return Err(Refusal::DockerHostUnknown {
            node: excerpt(name),
        });
    }
    change.agreed_mut().external_docker_hosts.remove(name);
    done()
}
