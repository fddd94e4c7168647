use std::collections::BTreeMap;

use super::*;

/// Runs the generator on these files; the drop-ins by unit, and the complaints.
fn generated(files: &[(&str, &str)]) -> (BTreeMap<String, String>, Vec<Complaint>) {
    let temp = tempfile::tempdir().expect("dir");
    let (configuration, out) = (temp.path().join("etc"), temp.path().join("run"));
    fs::create_dir(&configuration).expect("dir");
    for (name, text) in files {
        fs::write(configuration.join(name), text).expect("file");
    }
    let mut complaints = Vec::new();
    let shown = configuration.to_str().expect("text");
    generate(&configuration, &out, |c| {
        complaints.push(Complaint { pair: c.pair.clone(), message: c.message.replace(shown, "/etc/psync") });
    })
    .expect("the directory can be written");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&out).into_iter().flatten() {
        let path = entry.expect("entry").path();
        let unit = path.file_stem().expect("a name").to_str().expect("text").to_string();
        let text = fs::read_to_string(path.join(NAME)).expect("a drop-in");
        found.insert(unit, text.replace(shown, "/etc/psync"));
    }
    (found, complaints)
}

fn pair(left: &str, right: &str, more: &str) -> String {
    format!("{more}\n[left]\nroot = {left:?}\n[right]\nroot = {right:?}\nhost = \"b\"\n")
}

/// The lines of a drop-in that begin with the word.
fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|l| l.starts_with(word)).collect()
}

#[test]
fn one_file_makes_the_drop_ins_of_all_units() {
    let (made, complaints) = generated(&[("web.toml", &pair("/srv/left", "/srv/right", ""))]);
    assert_eq!(complaints, []);
    let units: Vec<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(
        units,
        [
            "psync-agent@web.service",
            "psync-brain@web.service",
            "psync-check@web.service",
            "psync-check@web.timer",
            "psync-checksum@web.service",
            "psync-checksum@web.timer",
            "psync-fullsync@web.service",
            "psync-fullsync@web.timer",
            "psync-link@web.service",
        ]
    );
    let check = "# From /etc/psync/web.toml\n\n[Unit]\nSourcePath=/etc/psync/web.toml\nRequiresMountsFor=\"/srv/left\"\n\n\
                 [Service]\nReadWritePaths=\"-/srv/left\"\nNoExecPaths=\"-/srv/left\"\n";
    for unit in ["psync-checksum@web.service", "psync-check@web.service", "psync-fullsync@web.service"] {
        assert_eq!(made[unit], check);
    }
    // Brain and agent wait for their mounts; they do not require them.
    for (side, unit, stops) in
        [("left", "psync-brain@web.service", "PartOf"), ("right", "psync-agent@web.service", "StopPropagatedFrom")]
    {
        let mounts = format!("srv.mount srv-{side}.mount");
        let wanted = format!("Wants={mounts}\nAfter={mounts}\n{stops}={mounts}");
        let text =
            check.replace("RequiresMountsFor=\"/srv/left\"", &wanted).replace("/srv/left", &format!("/srv/{side}"));
        assert_eq!(made[unit], text);
    }
    let timer = "# From /etc/psync/web.toml\n\n[Unit]\nSourcePath=/etc/psync/web.toml\n\n\
                 [Timer]\nOnCalendar=\nOnCalendar=*-*-* 01:00:00\n";
    assert_eq!(made["psync-fullsync@web.timer"], timer);
}

#[test]
fn calendars() {
    for (settings, unit, want) in [
        (
            "fullsync = [3, 13]",
            "fullsync",
            vec!["OnCalendar=", "OnCalendar=*-*-* 03:00:00", "OnCalendar=*-*-* 13:00:00"],
        ),
        ("fullsync = [23, 99]", "fullsync", vec!["OnCalendar=", "OnCalendar=*-*-* 23:00:00"]),
        ("fullsync = [\" Mon *-*-* 04:30 \"]", "fullsync", vec!["OnCalendar=", "OnCalendar=Mon *-*-* 04:30"]),
        ("fullsync = []", "fullsync", vec![]),
        ("fullsync = [99]", "fullsync", vec![]),
        ("timers.check = \"\"", "check", vec![]),
        ("timers.check = \"hourly\"", "check", vec!["OnCalendar=", "OnCalendar=hourly"]),
        (
            "timers.checksum = \"Sat *-*~7/1 02:00 Europe/Berlin\"",
            "checksum",
            vec!["OnCalendar=", "OnCalendar=Sat *-*~7/1 02:00 Europe/Berlin"],
        ),
    ] {
        let (made, complaints) = generated(&[("p.toml", &pair("/l", "/r", settings))]);
        assert_eq!(complaints, [], "{settings}");
        let text = &made[&format!("psync-{unit}@p.timer")];
        assert_eq!(lines(text, "OnCalendar"), want, "{settings}");
        assert_eq!(lines(text, "ConditionPathExists=!/").len(), usize::from(want.is_empty()), "{settings}");
    }
}

/// Nothing that a file says may become another line of a unit.
#[test]
fn an_expression_that_is_none_is_told_and_left_out() {
    for text in [r#""*:0\nOnBootSec=1""#, r#""*:0\\""#, r#""%n""#] {
        let (made, complaints) = generated(&[("p.toml", &pair("/l", "/r", &format!("fullsync = [{text}]")))]);
        assert!(complaints.len() == 1 && complaints[0].message.starts_with("/etc/psync/p.toml: fullsync: "), "{text}");
        assert!(made["psync-fullsync@p.timer"].contains("ConditionPathExists=!/"), "{text}");
    }
}

/// A word that systemd does not take would make the unit file bad, and keep the brain from starting with it.
#[test]
fn a_calendar_that_systemd_does_not_know_is_told_and_left_out() {
    if std::process::Command::new("systemd-analyze").arg("--version").output().is_err() {
        return eprintln!("skipped: a_calendar_that_systemd_does_not_know_is_told_and_left_out");
    }
    for (key, text) in [("timers.check", "\"hourlyy\""), ("timers.checksum", "\"25:00\""), ("fullsync", "[3, \"Mox\"]")]
    {
        let (made, complaints) = generated(&[("p.toml", &pair("/l", "/r", &format!("{key} = {text}")))]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        let told = &complaints[0].message;
        assert!(told.starts_with(&format!("/etc/psync/p.toml: {key}: ")) && told.contains("is no calendar"), "{told}");
        let name = key.strip_prefix("timers.").unwrap_or(key);
        let timer = &made[&format!("psync-{name}@p.timer")];
        let times = lines(timer, "OnCalendar");
        match key {
            // The good one of two stays.
            "fullsync" => assert_eq!(times, ["OnCalendar=", "OnCalendar=*-*-* 03:00:00"]),
            _ => assert!(times.is_empty() && timer.contains("ConditionPathExists=!/"), "{timer}"),
        }
    }
}

#[test]
fn paths_are_one_word_each() {
    for (root, word) in [
        ("/a b", r#"/a b"#),
        ("/100%", r#"/100%%"#),
        (r#"/say "so" \ or"#, r#"/say \"so\" \\ or"#),
        ("/Büro/日本 #;", "/Büro/日本 #;"),
    ] {
        let (made, complaints) = generated(&[("p.toml", &pair(root, "/r", ""))]);
        assert_eq!(complaints, []);
        let check = &made["psync-check@p.service"];
        assert_eq!(lines(check, "RequiresMountsFor"), [format!("RequiresMountsFor=\"{word}\"")]);
        assert_eq!(lines(check, "ReadWritePaths"), [format!("ReadWritePaths=\"-{word}\"")]);
    }
    for root in ["/a\nb", "/a/../b"] {
        let (made, complaints) = generated(&[("p.toml", &pair(root, "/r", ""))]);
        assert_eq!(complaints.len(), 1);
        assert_eq!(lines(&made["psync-brain@p.service"], "ReadWritePaths"), Vec::<&str>::new());
        assert_eq!(lines(&made["psync-agent@p.service"], "ReadWritePaths"), ["ReadWritePaths=\"-/r\""]);
    }
}

#[test]
fn what_the_units_hide_is_uncovered_for_a_root_in_it() {
    let uncovers = |root: &str| {
        let (made, _) = generated(&[("p.toml", &pair(root, "/r", ""))]);
        let text = &made["psync-brain@p.service"];
        let all = ["ProtectHome", "PrivateTmp", "PrivateDevices"].iter().flat_map(|w| lines(text, w));
        all.map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(uncovers("/srv"), Vec::<String>::new());
    assert_eq!(uncovers("/homes"), Vec::<String>::new());
    assert_eq!(uncovers("/home"), ["ProtectHome=no"]);
    assert_eq!(uncovers("/home/share"), ["ProtectHome=read-only"]);
    assert_eq!(uncovers("/var/tmp/x"), ["PrivateTmp=no"]);
    assert_eq!(uncovers("/"), ["ProtectHome=no", "PrivateTmp=no", "PrivateDevices=no"]);
    let hidden = |root: &str| {
        let (made, _) = generated(&[("p.toml", &pair(root, "/r", ""))]);
        lines(&made["psync-brain@p.service"], "InaccessiblePaths").join(" ")
    };
    assert_eq!(hidden("/srv"), "");
    assert_eq!(hidden("/bootleg"), "");
    assert_eq!(hidden("/"), "InaccessiblePaths= InaccessiblePaths=");
    assert!(!hidden("/etc/sudoers.d").contains("-/etc/sudoers.d"));
    assert!(
        hidden("/boot/efi").ends_with(" -/etc/sudoers.d -/etc/psync/ssh -/var/lib/psync"),
        "{}",
        hidden("/boot/efi")
    );
    assert_eq!(hidden("/etc"), "InaccessiblePaths= InaccessiblePaths=-/boot -/var/lib/psync");
}

/// What the drop-ins take back is what the units hide, no more and no less.
#[test]
fn the_units_hide_what_the_drop_ins_know() {
    let (made, _) = generated(&[("p.toml", &pair("/boot", "/boot", ""))]);
    for unit in ["psync-brain@", "psync-agent@", "psync-check@", "psync-checksum@", "psync-fullsync@"] {
        let file = format!("{}/units/{unit}.service", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(file).expect("a unit");
        let words = |text: &str| -> Vec<String> {
            let values = lines(text, "InaccessiblePaths=").join(" ").replace("InaccessiblePaths=", "");
            values.split_whitespace().filter(|word| *word != "-/boot").map(str::to_owned).collect()
        };
        assert_eq!(words(&text), words(&made[&format!("{unit}p.service")]), "{unit}");
    }
}

#[test]
fn the_line_gets_a_user_and_the_files_of_its_ssh() {
    let options =
        r#"ssh_options = ["-i", "/root/my key 100%", "-o", "UserKnownHostsFile=/var/lib/psync/known_hosts /k"]"#;
    let (made, complaints) =
        generated(&[("web.toml", &pair("/l", "/r", options)), ("Big.toml", &pair("/l", "/r", ""))]);
    assert_eq!(complaints, []);
    let text = &made["psync-link@web.service"];
    assert_eq!(lines(text, "User="), ["User=psync-l-web"]);
    let (key, hosts) = (config::credential("web", "/root/my key 100%"), config::credential("web", "/k"));
    let loaded = [format!("LoadCredential={key}:/root/my key 100%%"), format!("LoadCredential={hosts}:/k")];
    assert_eq!(lines(text, "LoadCredential="), loaded);
    assert_eq!(lines(text, "SetCredential="), [format!("SetCredential={key}:-"), format!("SetCredential={hosts}:-")]);
    let user = lines(&made["psync-link@Big.service"], "User=psync-l-_")[0];
    assert!(user.len() == "User=".len() + 29, "{user}");
    let (made, complaints) = generated(&[("p.toml", &pair("/l", "/r", r#"ssh_options = ["-i", "/a\nUser=root"]"#))]);
    assert!(complaints.len() == 1 && !made["psync-link@p.service"].contains("root\n"), "{complaints:?}");
    // Nothing to call: no line.
    let (made, _) = generated(&[("p.toml", "[left]\nroot = \"/l\"\n[right]\nroot = \"/r\"\n")]);
    assert!(!made.contains_key("psync-link@p.service"));
}

/// Nothing in a root is run, unless psync itself lies there.
#[test]
fn roots_hold_no_programs() {
    let log = "log = \"/data/log/psync.log\"";
    for (root, want) in [
        ("/l", &["\"-/l\"", "\"-/data/log\""][..]),
        ("/", &["\"-/\"", "\"-/data/log\""]),
        ("/usr", &["\"-/data/log\""]),
    ] {
        let (made, _) = generated(&[("p.toml", &pair(root, "/r", log))]);
        let want: Vec<String> = want.iter().map(|word| format!("NoExecPaths={word}")).collect();
        assert_eq!(lines(&made["psync-brain@p.service"], "NoExecPaths"), want, "{root}");
    }
}

#[test]
fn a_banned_program_is_seen_whoever_runs_it() {
    for (more, want) in [("", 0), ("banned = \"rsync\"", 1)] {
        let (made, _) = generated(&[("p.toml", &pair("/l", "/r", more))]);
        for unit in ["psync-brain@p.service", "psync-fullsync@p.service"] {
            assert_eq!(lines(&made[unit], "ProtectProc=default").len(), want, "{more}");
        }
        assert_eq!(lines(&made["psync-agent@p.service"], "ProtectProc").len(), 0);
    }
}

#[test]
fn more_that_a_file_can_ask_for() {
    let more = "samba_acls = true\nlog = \"/data/log/psync.log\"";
    let (made, _) = generated(&[("p.toml", &pair("/l", "/r", more))]);
    for (unit, root) in [("psync-brain@p.service", "/l"), ("psync-agent@p.service", "/r")] {
        assert_eq!(lines(&made[unit], "CapabilityBoundingSet"), ["CapabilityBoundingSet=CAP_SYS_ADMIN"]);
        let paths = [format!("ReadWritePaths=\"-{root}\""), "ReadWritePaths=\"-/data/log\"".to_string()];
        assert_eq!(lines(&made[unit], "ReadWritePaths"), paths);
    }
    // The child of a brain on one host works in the brain's sandbox.
    let local = "[left]\nroot = \"/l\"\n[right]\nroot = \"/r\"\n";
    let (made, _) = generated(&[("p.toml", local)]);
    let brain = &made["psync-brain@p.service"];
    assert_eq!(lines(brain, "Wants"), ["Wants=l.mount r.mount"]);
    let check = &made["psync-check@p.service"];
    assert_eq!(lines(check, "RequiresMountsFor"), ["RequiresMountsFor=\"/l\"", "RequiresMountsFor=\"/r\""]);
    assert_eq!(lines(brain, "ReadWritePaths"), ["ReadWritePaths=\"-/l\"", "ReadWritePaths=\"-/r\""]);
}

#[test]
fn a_broken_file_hurts_no_other() {
    let good = pair("/l", "/r", "");
    let (made, complaints) = generated(&[
        ("a.toml", "[left]\nroot = 7\n"),
        ("b.toml", &good),
        ("c d.toml", &good),
        ("e.toml", &pair("/l", "/r", "excludes = \"(\"")),
        ("f.toml", "\u{1b}[31m"),
        ("g.conf", "what is not .toml is nobody's"),
        ("z.toml", &good),
    ]);
    let mut pairs: Vec<&str> = made.keys().filter_map(|u| u.strip_prefix("psync-brain@")).collect();
    pairs.sort();
    assert_eq!(pairs, ["b.service", "z.service"]);
    let told: Vec<&str> = complaints.iter().map(|c| c.pair.as_str()).collect();
    assert_eq!(told, ["a", "c d", "e", "f"]);
    assert!(complaints[0].message.starts_with("/etc/psync/a.toml:2: left.root: "), "{:?}", complaints[0]);
    let told = &complaints[1].message;
    assert!(told.starts_with("/etc/psync/c d.toml: `c d` is no name of a pair: 1 to 64 of "), "{told}");
}

#[test]
fn no_configuration_is_no_error() {
    let temp = tempfile::tempdir().expect("dir");
    let never = |c: &Complaint| panic!("{c:?}");
    generate(&temp.path().join("none"), &temp.path().join("run"), never).expect("nothing to do");
    assert!(!temp.path().join("run").exists());
}
