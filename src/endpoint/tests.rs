use super::open::Opening;
use super::*;
use crate::config::{Links, Owner, Share};
use crate::filter::FilterSettings;
use crate::model::Side;
use crate::watch::coalesce::DEFAULT_LIMIT;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("path")
}

/// An endpoint that nobody talks to keeps in mind where something happened, and no more than it must.
#[test]
fn what_is_kept_while_no_brain_is_there_is_bounded() {
    let root = tempfile::tempdir().expect("root");
    let opening = Opening {
        root: root.path(),
        pair: "p",
        side: Side::Right,
        filter: FilterSettings {
            excludes: String::new(),
            tempfiles: String::new(),
            safesuffix: ".x".into(),
            skip_links: false,
        },
        timing: Timing { event_interval: 1000, delete_delay: 300, open_wait: 60_000 },
        durable: false,
        translate: None,
        trash_days: 7,
        trash_max: Share::Percent(10),
        wait_for_writers: true,
        owner: Owner::Names,
        links: Links::Preserve,
        samba_acls: false,
        unwatched: vec![],
        style: Style::Continuous,
        recurse: false,
        xattrs_from_left: true,
        skip_initial: false,
        dry_run: false,
        done: None,
    };
    let (mut endpoint, _watcher) = open::open(&opening, 1, |_| {}).expect("opened");
    for n in 0..3 * DEFAULT_LIMIT {
        let path = path(&format!("{}/{n}", n / 1000));
        endpoint.event(Event::Dirty { path, hint: Hint::Appeared }, 2);
        // The scopes come on top of the paths.
        let (appeared, dirty) = (endpoint.appeared.len(), endpoint.coalescer.len());
        assert!(appeared <= 2 * DEFAULT_LIMIT && dirty <= DEFAULT_LIMIT + 1000, "{n}: {appeared} {dirty}");
        if n % 10_000 == 0 {
            // Nothing is done with it, whatever time goes by.
            let mut out = Vec::new();
            endpoint.step(3, &mut out).expect("step");
            assert!(out.is_empty(), "{out:?}");
        }
    }
    // What is not kept by itself lies within a scope that will be scanned.
    assert!(endpoint.coalescer.is_dirty(&path("299/299999")) || !endpoint.coalescer.take_scopes().is_empty());
}

#[test]
fn a_copy_is_told_before_the_name_that_it_copies() {
    let report = |at: &str, like: Option<&str>| {
        let like = like.map(|from| crate::model::Like { from: path(from), node: 7, generation: 7 });
        let (known, moved, after, inline) = (None, None, None, None);
        let path = path(at);
        Reply::Report(crate::model::Change {
            seq: 1,
            path,
            parent: None,
            known,
            moved,
            after,
            contents: true,
            inline,
            like,
            below: 0,
        })
    };
    let mut replies =
        vec![report("a", None), Reply::Stopped, report("d", None), report("d/a~", Some("a")), report("x", Some("y"))];
    saves::copies_first(&mut replies);
    let told: Vec<String> = replies
        .iter()
        .map(|reply| if let Reply::Report(change) = reply { change.path.to_string() } else { String::new() })
        .collect();
    assert_eq!(told, ["", "d", "d/a~", "a", "x"]);
}
