//! The certificate authority and the fingerprint key of this host: made on first use, kept 0600, never in a bottle.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use carboy_core::secret::Secret;
use carboy_egress::CertificateAuthority;
use zeroize::Zeroize;

use crate::home::{Home, HomeError, read_private, write_private};

/// Longest wait for another run that is making the same files.
const MADE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its files.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The files do not hold a certificate and its key.
    #[error("{0}; remove both files in CARBOY_HOME/ca to have a new authority made")]
    Broken(String),
    /// The certificates.
    #[error(transparent)]
    Certificate(#[from] carboy_egress::CaError),
    /// Another run is at it and does not come to an end.
    #[error("{path} has been locked by another run for {MADE_WAIT_MAX:?}; look at `carboy ps`")]
    Locked {
        /// The directory.
        path: std::path::PathBuf,
    },
    /// No randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Loads the authority, or makes it.
pub fn load_or_make(home: &Home, now_ms: u64) -> Result<CertificateAuthority, AuthorityError> {
    let _alone = alone(home)?;
    let (cert_file, key_file) = home.ca_files();
    let broken = |e: &dyn std::fmt::Display| AuthorityError::Broken(format!("{}: {e}", key_file.display()));
    match (read_private(&cert_file)?, read_private(&key_file)?) {
        (Some(cert), Some(key)) => {
            let cert = String::from_utf8(cert).map_err(|e| broken(&e))?;
            let key = Secret::new(String::from_utf8(key).map_err(|e| broken(&e))?);
            CertificateAuthority::from_pem(&cert, &key).map_err(|e| broken(&e))
        }
        (Some(_), None) => Err(AuthorityError::Broken(format!("{} is missing", key_file.display()))),
        // A certificate without its key is of no use; a key without its certificate was cut off while being made.
        (None, _) => {
            let (authority, files) = CertificateAuthority::generate(now_ms).map_err(|e| broken(&e))?;
            write_private(&key_file, files.key_pem.expose().as_bytes())?;
            write_private(&cert_file, files.certificate_pem.as_bytes())?;
            Ok(authority)
        }
    }
}

/// Two first runs at once would each make an authority, and one's certificate would stand beside the other's key. The
/// lock goes with the file, also when its holder is killed.
fn alone(home: &Home) -> Result<File, AuthorityError> {
    let path = home.root().join("ca");
    let io = |source| HomeError::Io { path: path.clone(), source };
    let dir = File::open(&path).map_err(io)?;
    let deadline = Instant::now() + MADE_WAIT_MAX;
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(TRY_EVERY),
            Err(TryLockError::WouldBlock) => return Err(AuthorityError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(io(source).into()),
        }
    }
}

/// Loads the key of this host's fingerprints, or makes it.
pub fn fingerprint_key(home: &Home) -> Result<[u8; 32], AuthorityError> {
    let _alone = alone(home)?;
    let path = home.fingerprint_key_file();
    if let Some(mut kept) = read_private(&path)? {
        let key = <[u8; 32]>::try_from(kept.as_slice());
        kept.zeroize();
        return key.map_err(|_| AuthorityError::Broken(format!("{} does not hold 32 bytes", path.display())));
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(AuthorityError::Random)?;
    write_private(&path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_runs_at_once_make_one_authority_and_one_fingerprint_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home"), None).unwrap();
        let made: Vec<(String, [u8; 32])> = std::thread::scope(|scope| {
            let make = || {
                let authority = load_or_make(&home, 1_800_000_000_000).unwrap();
                (authority.ca_pem().to_owned(), fingerprint_key(&home).unwrap())
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(made.iter().all(|one| *one == made[0]));
    }
}
