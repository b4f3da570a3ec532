//! Draws an operation's phases: bars on a terminal, a line per finished phase elsewhere.

use std::time::{Duration, Instant};

use casemate_builder::progress::{Phase, Progress, Total};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::printer;

/// Bars on standard error.
#[derive(Debug)]
pub(crate) struct Bars {
    bars: MultiProgress,
    drawn: bool,
}

impl Bars {
    /// Draws where standard error is a terminal.
    pub(crate) fn new() -> Self {
        let drawn = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let target =
            if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), drawn }
    }
}

impl Progress for Bars {
    #[expect(clippy::literal_string_with_formatting_args, reason = "a bar's template")]
    fn phase(&self, name: &str, total: Total) -> Box<dyn Phase> {
        let (bar, template) = match total {
            Total::Bytes(n) => (
                ProgressBar::new(n),
                "{prefix:>12} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
            ),
            Total::Items(n) => (ProgressBar::new(n), "{prefix:>12} {bar:30} {pos}/{len} {msg}"),
            Total::Unknown => {
                (ProgressBar::new_spinner(), "{prefix:>12} {spinner} {elapsed} {msg}")
            }
        };
        let bar = self.bars.add(bar);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Box::new(OnScreen {
            bars: self.bars.clone(),
            bar,
            name: name.to_owned(),
            drawn: self.drawn,
            start: Instant::now(),
        })
    }

    fn warn(&self, text: &str) {
        self.bars.suspend(|| printer::warn(text));
    }
}

/// One phase on the screen. Its bar goes away with it; what stays is the line of `finish`.
#[derive(Debug)]
struct OnScreen {
    bars: MultiProgress,
    bar: ProgressBar,
    name: String,
    drawn: bool,
    start: Instant,
}

impl Phase for OnScreen {
    fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    fn detail(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    fn finish(&self, note: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let line = format!("{:>12} {seconds:>6.2} s  {note}", self.name);
        self.bar.finish_and_clear();
        if self.drawn {
            self.bars.suspend(|| printer::say(&line));
        } else {
            printer::say(&line);
        }
    }
}

impl Drop for OnScreen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
