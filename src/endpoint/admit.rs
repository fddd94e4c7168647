//! Who may talk to an agent's socket: the kernel says who is at the other end.

use std::os::unix::net::UnixStream;

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};

/// The group whose members reach the agents of this host: the line's login. Whoever is in it may do what a brain may, so it
/// is no group for people; they ask the brain (`service::control`).
pub const GROUP: &str = "psync";

/// Whom an agent lets in: root, the user that it runs as, the pair's own user, and the members of [`GROUP`].
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// The pair's own user on this host.
    pub user: Option<String>,
}

impl Admission {
    /// The caller's name if it may come in.
    ///
    /// # Errors
    /// Why not, for the caller and the log.
    pub fn check(&self, stream: &UnixStream) -> Result<String, String> {
        let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|e| format!("who calls is not known: {e}"))?;
        let (uid, gid) = (Uid::from_raw(peer.uid.as_raw()), Gid::from_raw(peer.gid.as_raw()));
        let user = User::from_uid(uid).ok().flatten();
        let name = user.as_ref().map_or_else(|| format!("user {uid}"), |user| user.name.clone());
        let own = self.user.is_some() && user.as_ref().map(|user| &user.name) == self.user.as_ref();
        if uid.is_root() || uid == geteuid() || own || in_group(user.as_ref(), gid) {
            return Ok(name);
        }
        Err(format!("{name} may not use this agent: only root, the pair's own user and members of the group {GROUP}"))
    }
}

fn in_group(user: Option<&User>, primary: Gid) -> bool {
    let Some(group) = Group::from_name(GROUP).ok().flatten() else { return false };
    let named = || {
        let user = user?;
        let name = std::ffi::CString::new(user.name.as_str()).ok()?;
        Some(getgrouplist(&name, user.gid).ok()?.contains(&group.gid))
    };
    primary == group.gid || named().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_processes_are_let_in_by_name() {
        let (a, _b) = UnixStream::pair().expect("sockets");
        let me = User::from_uid(geteuid()).expect("passwd").expect("me");
        assert_eq!(Admission::default().check(&a), Ok(me.name));
    }
}
