//! What a node keeps on its disk to sign with and to open what is sealed to it.
//!
//! Decides where keys rest: `sealing.key` opens what the mesh seals to this node; `intermediate.key`
//! is a server's own authority and never leaves it; `root-….age` are copies of the sealed root
//! keys, so that a mesh that was switched off for longer than any certificate lives can come back
//! by itself. All of it is readable by its owner only. The root key itself is never on a disk in
//! the clear.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use consensus_authority::{
    IntermediateKey, IssueError, KeyError, Root, RootKey, SealError, SealingKey,
};
use consensus_core::{NodeId, RootFingerprint, WallMs};
use node_api::ApiError;
use zeroize::Zeroizing;

use crate::data_dir::replace_file;

/// Why an authority's key can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("{path:?} can't be used")]
    File { path: PathBuf, source: io::Error },
    #[error("a sealed key can't be opened")]
    Seal(#[from] SealError),
    #[error("a key can't be used")]
    Key(#[from] KeyError),
    #[error("a certificate can't be signed: {0}")]
    Issue(#[from] IssueError),
}

impl AuthorityError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "AuthorityFileError",
            Self::Seal(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Issue(error) => error.code(),
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the data directory's disk and permissions",
            Self::Seal(error) => error.hint().unwrap_or("look into the log"),
            Self::Key(error) => error.hint().unwrap_or("look into the log"),
            Self::Issue(error) => error.hint().unwrap_or("look into the log"),
        }
    }
}

impl From<AuthorityError> for ApiError {
    fn from(error: AuthorityError) -> Self {
        Self::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
    }
}

/// The directory with a node's authority keys.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityFiles {
    dir: PathBuf,
}

impl AuthorityFiles {
    /// The files in `dir`, which is made when there is something to keep.
    pub(crate) fn in_directory(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, AuthorityError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(AuthorityError::File { path, source }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), AuthorityError> {
        let path = self.dir.join(name);
        replace_file(&path, bytes).map_err(|source| AuthorityError::File { path, source })
    }

    /// The key that opens what is sealed to this node; made at the first call.
    pub(crate) fn sealing_key(&self) -> Result<SealingKey, AuthorityError> {
        if let Some(bytes) = self.read("sealing.key")? {
            let text = Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned());
            return Ok(SealingKey::from_text(&text)?);
        }
        let key = SealingKey::generate();
        self.write("sealing.key", key.to_text().as_bytes())?;
        Ok(key)
    }

    /// This server's intermediate and its key, as kept last.
    pub(crate) fn intermediate(
        &self,
    ) -> Result<Option<(IntermediateKey, Vec<u8>)>, AuthorityError> {
        match self.read("intermediate.key")? {
            Some(bytes) => split_intermediate(&bytes),
            None => Ok(None),
        }
    }

    /// Keeps this server's intermediate and its key.
    pub(crate) fn keep_intermediate(
        &self,
        key: &IntermediateKey,
        certificate: &[u8],
    ) -> Result<(), AuthorityError> {
        self.write("intermediate.key", &join_intermediate(key, certificate))
    }

    /// Forgets it, on a server that is none any more.
    pub(crate) fn forget_intermediate(&self) {
        let _ = fs::remove_file(self.dir.join("intermediate.key"));
    }

    fn root_file(root: &RootFingerprint) -> String {
        format!("root-{}.age", &root.to_string()[..16])
    }

    /// Keeps copies of exactly these sealed root keys.
    pub(crate) fn keep_roots<'a>(
        &self,
        keys: impl IntoIterator<Item = (&'a RootFingerprint, &'a [u8])>,
    ) -> Result<(), AuthorityError> {
        let mut kept = Vec::new();
        for (root, age) in keys {
            let name = Self::root_file(root);
            if self.read(&name)?.is_none_or(|known| *known != age) {
                self.write(&name, age)?;
            }
            kept.push(name);
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("root-") && !kept.contains(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// The sealed key of a root, as kept last.
    pub(crate) fn sealed_root(
        &self,
        root: &RootFingerprint,
    ) -> Result<Option<Vec<u8>>, AuthorityError> {
        Ok(self.read(&Self::root_file(root))?.map(|age| age.to_vec()))
    }

    /// Opens a sealed root key.
    pub(crate) fn open_root(
        &self,
        sealed: &[u8],
        certificate: &[u8],
    ) -> Result<Root, AuthorityError> {
        let key = self.sealing_key()?.unseal(sealed)?;
        Ok(Root::open(RootKey::from_pkcs8(&key)?, certificate)?)
    }

    /// Makes this server a new intermediate and keeps it.
    pub(crate) fn new_intermediate(
        &self,
        root: &Root,
        me: &NodeId,
        now: WallMs,
    ) -> Result<(IntermediateKey, consensus_authority::Intermediate), AuthorityError> {
        let key = IntermediateKey::generate()?;
        let signed = root.sign_intermediate(&key.request()?, me, now)?;
        self.keep_intermediate(&key, &signed.der)?;
        Ok((key, signed))
    }
}

/// The bytes of `intermediate.key`. Key and certificate are one file, so that a crash never leaves
/// two that do not belong together: four bytes of the key's length, the key, the certificate.
pub(crate) fn join_intermediate(key: &IntermediateKey, certificate: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = u32::try_from(key.pkcs8().len()).unwrap_or(u32::MAX);
    let mut bytes = Zeroizing::new(length.to_be_bytes().to_vec());
    bytes.extend_from_slice(key.pkcs8());
    bytes.extend_from_slice(certificate);
    bytes
}

/// The key and the certificate in these bytes; none if they are cut, and a new one is made in its
/// place.
pub(crate) fn split_intermediate(
    bytes: &[u8],
) -> Result<Option<(IntermediateKey, Vec<u8>)>, AuthorityError> {
    let parts = bytes.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.split_at_checked(length)
    });
    let Some((key, certificate)) = parts else {
        return Ok(None);
    };
    let key = IntermediateKey::from_pkcs8(key)?;
    Ok(Some((key, certificate.to_vec())))
}

/// Removes what a founding that failed has left.
pub(crate) fn forget(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use consensus_authority::seal;
    use consensus_core::MeshId;

    use super::*;

    const NODE: &str = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm";

    fn files() -> (tempfile::TempDir, AuthorityFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = AuthorityFiles::in_directory(dir.path().join("authority"));
        (dir, files)
    }

    #[test]
    fn keys_are_kept_for_their_owner_alone_and_come_back() {
        let (_dir, files) = files();
        let now = WallMs(1_800_000_000_000);
        let recipient = files.sealing_key().unwrap().recipient();
        assert_eq!(files.sealing_key().unwrap().recipient(), recipient);
        let root = Root::generate(MeshId::from_bytes([5; 16]), now).unwrap();
        let (key, signed) = files
            .new_intermediate(&root, &NODE.parse().unwrap(), now)
            .unwrap();
        let (again, certificate) = files.intermediate().unwrap().unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert_eq!(certificate, signed.der);
        for file in fs::read_dir(&files.dir).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        files.forget_intermediate();
        assert!(files.intermediate().unwrap().is_none());
    }

    #[test]
    fn a_root_key_is_opened_by_its_recipient_and_old_copies_go() {
        let (_dir, files) = files();
        let now = WallMs(1_800_000_000_000);
        let root = Root::generate(MeshId::from_bytes([5; 16]), now).unwrap();
        let fingerprint = RootFingerprint::of(root.certificate().der());
        let recipient = files.sealing_key().unwrap().recipient();
        let sealed = seal(root.key().pkcs8(), &[recipient]).unwrap();
        files
            .keep_roots([(&fingerprint, sealed.as_slice())])
            .unwrap();
        let copy = files.sealed_root(&fingerprint).unwrap().unwrap();
        files.open_root(&copy, root.certificate().der()).unwrap();
        files.keep_roots([]).unwrap();
        assert!(files.sealed_root(&fingerprint).unwrap().is_none());

        let other = SealingKey::generate().recipient();
        let foreign = seal(root.key().pkcs8(), &[other]).unwrap();
        assert!(files.open_root(&foreign, root.certificate().der()).is_err());
    }

    #[test]
    fn a_cut_file_counts_as_no_intermediate() {
        let (_dir, files) = files();
        files.write("intermediate.key", &[0, 0, 1, 0, 7]).unwrap();
        assert!(files.intermediate().unwrap().is_none());
    }
}
