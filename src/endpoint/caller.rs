//! Who calls an agent: a brain, for a session, or a surveyor. Which of them is told by the first frame of the link, and
//! decides for good what is heard on it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::link::LinkError;
use crate::link::channel::Incoming;
use crate::link::handshake::{Hello, Role};
use crate::protocol::survey::Ask;
use crate::protocol::{Call, Request};

/// Messages that wait before whoever attends to the caller.
const WAITING: usize = 4;

/// What is heard of a caller: messages, and why the link ended.
pub type Heard<T> = Receiver<Result<T, LinkError>>;

/// A caller that has said who it is.
pub enum Caller {
    Brain(Hello, Heard<Request>),
    Surveyor(Hello, Heard<Ask>),
}

/// Where what it says goes.
enum Ear {
    Nobody,
    Brain(SyncSender<Result<Request, LinkError>>),
    Surveyor(SyncSender<Result<Ask, LinkError>>),
}

/// What a link delivers to, and where the caller is met. Nobody is met if the link ends before the first frame.
pub fn meet() -> (impl FnMut(Incoming<Call>) -> bool + Send + 'static, Receiver<Caller>) {
    let (met, meets) = sync_channel(1);
    let mut ear = Ear::Nobody;
    let deliver = move |incoming| match (incoming, &ear) {
        (Incoming::Hello(hello), _) => {
            let caller = match hello.role {
                Role::Surveyor => {
                    let (say, heard) = sync_channel(WAITING);
                    ear = Ear::Surveyor(say);
                    Caller::Surveyor(hello, heard)
                }
                Role::Brain | Role::Agent => {
                    let (say, heard) = sync_channel(WAITING);
                    ear = Ear::Brain(say);
                    Caller::Brain(hello, heard)
                }
            };
            met.send(caller).is_ok()
        }
        (Incoming::Message(Call::Session(request)), Ear::Brain(say)) => say.send(Ok(request)).is_ok(),
        (Incoming::Message(Call::Survey(ask)), Ear::Surveyor(say)) => say.send(Ok(ask)).is_ok(),
        (Incoming::Ended(why), Ear::Brain(say)) => say.send(Err(why)).is_ok(),
        (Incoming::Ended(why), Ear::Surveyor(say)) => say.send(Err(why)).is_ok(),
        // The link decodes a message by what the first frame says, as this does.
        (Incoming::Message(_) | Incoming::Ended(_), _) => false,
    };
    (deliver, meets)
}
