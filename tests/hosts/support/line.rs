//! The line between two hosts: two network namespaces, and a pair of virtual cards in them.

use super::run;

pub struct Line {
    left: String,
    right: String,
}

/// The card's name on both hosts.
const CARD: &str = "line0";

impl Line {
    pub fn lay(name: &str) -> Line {
        let line = Line { left: format!("psync-{name}-l"), right: format!("psync-{name}-r") };
        for namespace in [&line.left, &line.right] {
            run("ip", &["netns", "add", namespace]);
            run("ip", &["-n", namespace, "link", "set", "lo", "up"]);
        }
        let (left, right) = (&line.left, &line.right);
        run("ip", &["-n", left, "link", "add", CARD, "type", "veth", "peer", "name", CARD, "netns", right]);
        for (namespace, address) in [(left, "10.77.0.1/24"), (right, "10.77.0.2/24")] {
            run("ip", &["-n", namespace, "addr", "add", address, "dev", CARD]);
            run("ip", &["-n", namespace, "link", "set", CARD, "up"]);
        }
        line
    }

    /// The network namespaces.
    pub fn left(&self) -> &str {
        &self.left
    }

    pub fn right(&self) -> &str {
        &self.right
    }

    /// Nothing passes any more, in either direction; neither host is told.
    pub fn cut(&self) {
        run("ip", &["-n", &self.right, "link", "set", CARD, "down"]);
    }

    pub fn restore(&self) {
        run("ip", &["-n", &self.right, "link", "set", CARD, "up"]);
    }

    /// Bytes that the left has sent and received, with the headers of all layers.
    pub fn bytes(&self) -> (u64, u64) {
        let text = run("ip", &["-n", &self.left, "-s", "-j", "link", "show", CARD]);
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        let count = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().unwrap();
        (count("tx"), count("rx"))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for namespace in [&self.left, &self.right] {
            let _ = std::process::Command::new("ip").args(["netns", "delete", namespace]).output();
        }
    }
}
