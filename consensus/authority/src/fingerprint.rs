//! What people compare: a certificate's fingerprint, and its words.

/// BLAKE3 of a certificate.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    *blake3::hash(der).as_bytes()
}

/// The first 128 bits of a fingerprint as twelve words (BIP-39), to be compared by voice.
pub fn words(fingerprint: &[u8; 32]) -> String {
    let mnemonic =
        bip39::Mnemonic::from_entropy(&fingerprint[..16]).expect("128 bits make twelve words");
    mnemonic.words().collect::<Vec<_>>().join(" ")
}
