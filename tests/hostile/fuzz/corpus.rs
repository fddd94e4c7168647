//! Real values of every format, from which the mutator starts.

use psync::brain::control;
use psync::brain::desk::Desk;
use psync::config::{Compress, Settings, SharedSettings};
use psync::link::codec::{SUM, encode};
use psync::link::frame::{self, HEADER, Kind};
use psync::link::handshake::{Hello, Role};
use psync::link::pack::Packer;
use psync::link::relay::send_words;

use super::entries;
use crate::roll::Roll;
use crate::samples::{self, Maker};

/// Whole frames of all messages that are not large.
fn wire<T: serde::Serialize>(all: Vec<T>) -> Vec<Vec<u8>> {
    all.iter().filter_map(|message| encode(message).ok()).filter(|frame| frame.len() < 4096).collect()
}

/// The messages in them, without what is said of them.
fn payloads(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|frame| frame[HEADER + SUM..].to_vec()).collect()
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Deep, which a recursive reader pays for with its stack.
fn deep(open: &str, close: &str) -> String {
    open.repeat(20_000) + &close.repeat(20_000)
}

/// What there is for one decoder.
pub fn of(entry: &str, roll: &mut Roll) -> Vec<Vec<u8>> {
    let maker = &mut Maker::new(roll.fork(), "e2e");
    match entry {
        "request" => (0..5).flat_map(|_| payloads(wire(samples::requests(maker)))).collect(),
        "reply" => (0..5).flat_map(|_| payloads(wire(samples::replies(maker)))).collect(),
        "ask" => (0..5).flat_map(|_| payloads(wire(samples::asks(maker)))).collect(),
        "answer" => (0..5).flat_map(|_| payloads(wire(samples::answers(maker)))).collect(),
        "frames" => {
            let frames = wire(samples::requests(maker));
            vec![frames.concat(), frames[0].clone(), frame(Kind::Ping, b""), frame(Kind::Refusal, b"why")]
        }
        "handshake" => [(Role::Brain, "web"), (Role::Surveyor, "web"), (Role::Agent, ""), (Role::Agent, "web")]
            .map(|(role, pair)| {
                let mut wire = Vec::new();
                Hello::new(role, pair).send(&mut wire).expect("a vector");
                wire
            })
            .into_iter()
            .chain(texts(&["bash: psync-agent: command not found\n", "\x1b[1mWelcome\n"]))
            .collect(),
        "packed" => [vec![b'x'; 3000], vec![0; 1 << 20], b"abcdefgh".repeat(200)]
            .into_iter()
            .map(|plain| Packer::new(Compress::Zstd).pack(frame(Kind::Message, &plain), None)[HEADER..].to_vec())
            .collect(),
        "path" => maker.paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
        "conflict_name" | "pair_name" => {
            texts(&["a.txt", "web", "a (left, 2026-01-02 03.04.05).txt", "\u{e4}\u{308}.tar.gz", ".x", "-", "n\n"])
        }
        "acl_kernel" => {
            let line = |tag: u16, bits: u16, id: u32| {
                [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
            };
            let none = u32::MAX;
            let lines = [
                line(1, 7, none),
                line(2, 5, 1000),
                line(4, 5, none),
                line(8, 7, 5),
                line(16, 7, none),
                line(32, 4, none),
            ];
            let version = [2, 0, 0, 0];
            vec![[&version[..], &lines.concat()].concat(), [&version[..], &lines[0], &lines[2], &lines[5]].concat()]
        }
        "acl_portable" => {
            let owners = psync::replica::metadata::owners::Owners::new(psync::config::Owner::Numeric);
            let acl =
                |bytes: Vec<u8>| psync::replica::metadata::acl::Acl::from_kernel(&bytes, &owners).expect("an ACL");
            of("acl_kernel", roll).into_iter().map(|bytes| acl(bytes).to_portable().expect("an ACL")).collect()
        }
        "trash_list" => texts(&["1-2\t1700000000\t5\tdeleted\ta/b\0", "1-0-9\t-1\t0\treplaced\t\n\0x\ty\0"]),
        "events" => texts(&[
            "{\"when\":1,\"side\":\"L\",\"method\":\"RSYNC\",\"id\":\"00001\",\"path\":\"a\",\"bytes\":3}\n",
            "{\"when\":2,\"side\":\"R\",\"method\":\"CONFLICT\",\"id\":\"00002\",\"path\":\"a\",\"from\":\"b\",\"copy\":\"c\"}\nnone\n",
            &deep("[", "]"),
        ]),
        "archive_file" => vec![entries::ARCHIVE.clone()],
        "archive_cell" => {
            (0..5_u8).flat_map(|table| (0..5).map(move |kind| vec![table, 3, kind, 0, 0, 7, 200])).collect()
        }
        "rsync_arguments" => texts(&[
            "--server\0-Ie.LsfxCIvu\0.\0x",
            "--server\0-ISze31.1LsfxCIvu\0--timeout=300\0.\0/etc/x",
            "--server\0-Ie.iLsfxCIvu\0-B4096\0--skip-compress=gz/jpg\0.\0.",
            "--server\0--sender\0--copy-dest=/root\0--log-file=/x\0.\0x",
        ]),
        "rsync_patterns" => {
            texts(&["- *.o\n+ /keep/**\n.git/\n", "a[a-z]?/**/b\n[[:alpha:]]\n[!x]\\*\n", &"*".repeat(3000)])
        }
        "filters" => texts(&[
            "\\.bak$|^tmp/\n(.*/)?\\.#\n~",
            "(a|b)*c{2,5}\n[[:upper:]]\n\\.save",
            "((((((((((a{10}){10}){10}){10}){10}))))))\n\n",
            &deep("(", ")"),
        ]),
        "config_toml" => {
            let conf = |file: &str| std::fs::read(format!("{}/conf/{file}", env!("CARGO_MANIFEST_DIR")));
            let mut all = texts(&[
                "[left]\nroot = '/a'\n[right]\nroot = '/b'\nhost = 'h'\n",
                "transfer = 'rsync'\nrsync_extra = ['-z', '--bwlimit=5m']\nmax_delete = '50%'\n[left]\nroot = '/a'\n",
                &format!("a = {}", deep("[", "]")),
            ]);
            all.extend(conf("psync.toml"));
            all
        }
        "config_import" => texts(&[
            "# -*- coding: utf-8 -*-\nSRCROOT = '/a'\nDSTROOT = \"/b\"\nREMOTE_HOST = 'h'\nEXCLUDES = r'\\.bak$' \\\n  '|x'\nDEBUG = 1 + 2\n",
            "import os\nRSYNC_EXTRA = ['-z', '--x' % (1,)]\nif True:\n    EVENTDELAY = 0.5\nx = '''long\nstring'''\n",
            &format!("EXCLUDES = {}", deep("(", ")")),
        ]),
        "agent_settings" => {
            vec![serde_json::to_vec(&SharedSettings::default()).expect("plain data"), deep("{\"a\":", "}").into_bytes()]
        }
        "control_request" => texts(&[
            r#"{"command":"status"}"#,
            r#"{"command":"full-sync","checksum":true}"#,
            r#"{"command":"resume","accept":true,"union":true}"#,
            &deep("{\"command\":", "}"),
        ]),
        "control_reply" => {
            let desk = Desk::new("p", &Settings::default(), |_| {});
            let status =
                control::answer(&desk, r#"{"command":"status"}"#, psync::service::control::Caller::Owner).remove(0);
            vec![status.into_bytes(), br#"{"ok":"noted"}"#.to_vec(), br#"{"error":"x"}"#.to_vec()]
        }
        "blocks" => {
            use psync::protocol::Sums;
            let sums = |list: &[Sums]| {
                list.iter().flat_map(|sums| postcard::to_stdvec(sums).expect("plain")).collect::<Vec<u8>>()
            };
            let blocks = |n: usize| Sums::Blocks { sums: serde_bytes::ByteBuf::from(vec![5; 16 * n]) };
            let mut sound = sums(&[Sums::Basis { block: 64, size: 200 }, blocks(4), Sums::End]);
            sound.extend([7; 300]);
            let two = [
                Sums::Basis { block: 64, size: 64 },
                blocks(1),
                Sums::Basis { block: 64, size: 65 },
                blocks(2),
                Sums::End,
            ];
            vec![
                sound,
                sums(&two),
                sums(&samples::all_sums(maker)[..1]),
                sums(&[Sums::Basis { block: 1 << 24, size: u64::MAX }]),
            ]
        }
        "relay_words" => [&[&b"--server"[..], b"", b"\xff"][..], &[], &[&b"x"[..]; 64]]
            .into_iter()
            .map(|words| {
                let mut wire = Vec::new();
                send_words(&mut wire, words).expect("a vector");
                wire
            })
            .collect(),
        "ssh_words" => texts(&[
            "ssh: connect to host h port 22: Connection refused\nHost key verification failed.\n",
            "psync-agent: no permission for the pair web\nPermission denied (publickey).\n",
            "\x1b]0;x\x07\nkex_exchange_identification: read\n",
        ]),
        other => panic!("{other} has no corpus"),
    }
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    frame::write(&mut wire, kind, 0, payload).expect("it fits");
    wire
}
