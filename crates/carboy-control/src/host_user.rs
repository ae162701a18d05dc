//! Users of this host, for `--user NAME` and for who decided something.

/// Why a user cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The list cannot be read.
    #[error("/etc/passwd cannot be read: {0}")]
    Unreadable(String),
    /// Nobody of that name.
    #[error("no user `{0}` in /etc/passwd; give the name of an ordinary user of this host")]
    Unknown(String),
    /// Root, under whatever name.
    #[error("user `{0}` is root: a bottle is never mapped to it; give the name of an ordinary user")]
    Root(String),
}

/// Uid and gid of an ordinary user.
pub fn ids_of(name: &str) -> Result<(u32, u32), UserError> {
    let text = std::fs::read_to_string("/etc/passwd").map_err(|e| UserError::Unreadable(e.to_string()))?;
    find(&text, name)
}

/// The name of a user; `uid 1000` for one that has none.
pub fn name_of(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&text, uid).unwrap_or_else(|| format!("uid {uid}"))
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let is = |line: &&str| line.split(':').nth(2).is_some_and(|field| field.parse() == Ok(uid));
    passwd.lines().find(is)?.split(':').next().map(str::to_owned)
}

fn find(passwd: &str, name: &str) -> Result<(u32, u32), UserError> {
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let uid_at = fields.next().filter(|n| *n == name).and_then(|_| fields.nth(1));
        Some((uid_at?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    match ids {
        None => Err(UserError::Unknown(name.to_owned())),
        Some((0, _) | (_, 0)) => Err(UserError::Root(name.to_owned())),
        Some(ids) => Ok(ids),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_is_found_and_root_is_refused_under_any_name() {
        let passwd = "root:x:0:0:r:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nann:x:1001:1002:A:/home/ann:/bin/sh\n";
        assert_eq!(find(passwd, "ann"), Ok((1001, 1002)));
        assert_eq!(find(passwd, "toor"), Err(UserError::Root("toor".into())));
        assert_eq!(name_in(passwd, 1001).as_deref(), Some("ann"));
        assert_eq!((name_in(passwd, 0).as_deref(), name_in(passwd, 7)), (Some("root"), None));
        assert_eq!(find(passwd, "an"), Err(UserError::Unknown("an".into())));
    }
}
