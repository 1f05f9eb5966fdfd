//! A root, an intermediate and leaves, as the mesh issues them.

use std::sync::Arc;

use consensus_core::WallMs;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use runtimes_core::docker::IssuedCertificate;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

pub(crate) struct Ca {
    pub(crate) root_pem: String,
    intermediate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let root_key = key();
        let root = authority("root", BasicConstraints::Unconstrained);
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let intermediate_key = key();
        let intermediate = authority("intermediate", BasicConstraints::Constrained(0));
        let intermediate_pem = intermediate
            .signed_by(&intermediate_key, &root)
            .unwrap()
            .pem();
        Self {
            root_pem,
            intermediate_pem,
            issuer: Issuer::new(intermediate, intermediate_key),
        }
    }

    /// A dockerd server's certificate for the request.
    pub(crate) fn answer(&self, csr: &[u8], serial: u64) -> IssuedCertificate {
        let mut request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        request.params.serial_number = Some(serial.into());
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = request.signed_by(&self.issuer).unwrap().pem();
        IssuedCertificate {
            serial: format!("{serial:x}"),
            csr: csr.to_vec(),
            not_after: WallMs(u64::MAX),
            renew_at: WallMs(u64::MAX),
            chain_pem: format!("{leaf}{}", self.intermediate_pem),
            ca_pem: self.root_pem.clone(),
        }
    }

    /// A client of the mesh.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client_that_shows(self)
    }

    /// A client that believes this authority and has its own certificate from `other`.
    pub(crate) fn client_that_shows(&self, other: &Self) -> Arc<ClientConfig> {
        let key = key();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "operator");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &other.issuer).unwrap();
        let intermediate =
            CertificateDer::from_pem_slice(other.intermediate_pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.root_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![leaf.der().clone(), intermediate],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Arc::new(config)
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
