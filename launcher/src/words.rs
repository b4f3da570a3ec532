//! What QEMU says of itself on its standard error: the end of it, in memory, while a VM boots.
//! Nothing of it is kept once the VM is up, and nothing of the guest's is ever repeated.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::channel::Signal;
use crate::complaint::Complaint;

/// How many bytes of QEMU's own words are kept, in memory, while the VM boots.
const TAIL_LEN: usize = 8 * 1024;

/// The end of what QEMU wrote, shared with the thread that reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words(Arc<Mutex<Tail>>);

impl Words {
    /// Reads until QEMU ends, in a thread of its own, which says so then.
    pub(crate) fn listen(&self, stderr: impl Read + Send + 'static, sender: SyncSender<Signal>) {
        let words = self.clone();
        thread::spawn(move || {
            keep_tail(stderr, &words);
            let _ = sender.send(Signal::Closed);
        });
    }

    /// The end of what was read.
    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of what QEMU wrote, for its own error messages alone.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    /// Whether nothing is kept any more.
    closed: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(TAIL_LEN);
        self.bytes.drain(..excess);
    }

    /// Forgets what there is and keeps nothing more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.bytes = VecDeque::new();
    }

    fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// QEMU's own errors: what starts with its name. Register dumps and the like are left out.
    pub(crate) fn own_words(&self) -> String {
        let text = self.text();
        let lines =
            text.lines().filter(|line| line.starts_with("qemu") && !line.contains("warning:"));
        let lines: Vec<String> = lines
            .map(|line| line.chars().filter(|c| !c.is_control()).take(300).collect())
            .collect();
        let last = lines.len().saturating_sub(4);
        lines[last..].iter().flat_map(|line| [": ", line]).collect()
    }

    /// Why the VM did not run, where the words name a cause that is known.
    pub(crate) fn complaint(&self) -> Option<Complaint> {
        Complaint::in_text(&self.text())
    }

    /// Whether what QEMU complains about may be over soon, as what another program holds.
    pub(crate) fn may_pass(&self) -> bool {
        let text = self.text();
        ["busy", "Cannot allocate memory", "Too many open files", "temporarily unavailable"]
            .iter()
            .any(|word| text.contains(word))
    }

    /// Whether KVM is what QEMU complains about: reason enough to try another accelerator once,
    /// and not to think ill of KVM later.
    pub(crate) fn blames_kvm(&self) -> bool {
        self.text().lines().filter(|line| !line.contains("warning:")).any(|line| {
            let own = line.starts_with("qemu") && line.to_ascii_lowercase().contains("kvm");
            own || line.starts_with("KVM") || line.contains("failed to set MSR")
        })
    }
}

fn keep_tail(mut stderr: impl Read, words: &Words) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut buffer) {
        words.tail().push(&buffer[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_qemus_own_words_are_repeated() {
        let mut tail = Tail::default();
        tail.push(
            b"qemu-system-x86_64: warning: x\nKVM internal error. Suberror: 1\nRAX=1 RBX=2\n",
        );
        tail.push(b"qemu-system-x86_64: Could not set up host forwarding rule\n");
        assert_eq!(tail.own_words(), ": qemu-system-x86_64: Could not set up host forwarding rule");
        assert!(tail.blames_kvm());
        for (text, blamed) in [
            ("qemu-system-x86_64: -netdev user: could not set up host forwarding rule", false),
            ("qemu-system-x86_64: warning: host doesn't support requested feature: KVM\n", false),
            ("qemu-system-x86_64: error: failed to set MSR 0x345 to 0x2000", true),
            ("qemu-system-x86_64: failed to initialize kvm: Device or resource busy", true),
            ("Could not open '/srv/kvm/root.img'", false),
        ] {
            let mut tail = Tail::default();
            tail.push(text.as_bytes());
            assert_eq!(tail.blames_kvm(), blamed, "{text}");
            assert_eq!(tail.may_pass(), text.contains("busy"), "{text}");
        }
        tail.push(&vec![b'x'; 3 * TAIL_LEN]);
        assert_eq!(tail.text().len(), TAIL_LEN);
        tail.close();
        tail.push(b"qemu: late\n");
        assert_eq!(tail.text(), "");
    }
}
