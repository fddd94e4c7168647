//! Join: whether merged attributes may go with the contents that were chosen. Rights stay with the contents that they were
//! granted to: see [`crate::model::rights`].

use crate::model::rights::{Numbers, Rights};
use crate::model::{Attrs, Entry, Kind, Sameness, Side, Sides};

/// What of merged attributes may go with the contents of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// These, after what nobody granted to these contents was dropped.
    Together { attrs: Attrs, dropped: Rights },
    /// The files only look equal: nothing is granted before both were read.
    Unproven,
    /// The other side gave its object to the system, and these are other contents: they stay apart.
    Apart,
}

/// Both sides' objects of one kind, and what is known of their contents.
pub struct Pairing<'a> {
    pub objects: Sides<&'a Entry>,
    pub alike: Sameness,
    /// Whose contents are taken.
    pub from: Side,
    /// Which side keeps the contents that it has.
    pub holds: Sides<bool>,
    /// Which side's file was read for its report.
    pub read: Sides<bool>,
}

impl Pairing<'_> {
    /// What each side's object lacks of the rights in these attributes.
    pub fn lacking(&self, attrs: &Attrs, numbers: &Numbers) -> Sides<Rights> {
        let is_system = |group, principal: &_| numbers.is_system(group, principal);
        self.objects.map(|entry| Rights::granted(entry.kind(), attrs, &entry.attrs, is_system))
    }

    pub fn join(&self, mut attrs: Attrs, numbers: &Numbers) -> Joined {
        let lacking = self.lacking(&attrs, numbers);
        let (own, other) = (lacking[self.from], lacking[self.from.other()]);
        if !lacking.values().any(|rights| rights.any()) {
            return Joined::Together { attrs, dropped: Rights::default() };
        }
        let other_holds = self.holds[self.from.other()];
        match self.alike {
            Sameness::Same if self.is_proven() => {
                // What one of two equal objects has, somebody granted to these contents. A setuid bit of one and the
                // owner of the other nobody did.
                let nobody = own.and(other);
                nobody.strip(&mut attrs);
                let entry = self.objects[self.from];
                if nobody.owner {
                    attrs.user = entry.attrs.user.clone();
                }
                if nobody.group {
                    attrs.group = entry.attrs.group.clone();
                }
                Joined::Together { attrs, dropped: nobody }
            }
            Sameness::Same | Sameness::Unknown if own.any() || (other_holds && other.any()) => Joined::Unproven,
            _ if own.to_system() => Joined::Apart,
            _ => {
                own.strip(&mut attrs);
                Joined::Together { attrs, dropped: own }
            }
        }
    }

    /// Whether equal contents were compared, and not only taken for equal.
    fn is_proven(&self) -> bool {
        let entry = self.objects[Side::Left];
        entry.kind() != Kind::File || entry.size() == 0 || self.read == Sides::both(true)
    }
}
