//! What is printed: lines as they are measured, and at the end the figures and the cases where
//! gridkv loses.

use gridkv_benches::compare::{Comparison, Contender, Plan, Spread, against_itself, compare};

/// How a measurement stands to its figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The figure is reached.
    Pass,
    /// The gate is reached, the goal is not.
    Gate,
    Fail,
    /// The machine was too restless to tell.
    Void,
    /// There is no figure for this.
    Info,
}

impl Verdict {
    /// Reached where `measured` is no more than `figure`.
    pub(crate) fn at_most(figure: f64, measured: f64) -> Self {
        if measured <= figure { Self::Pass } else { Self::Fail }
    }

    /// Reached where `measured` is no less than `figure`.
    pub(crate) fn at_least(figure: f64, measured: f64) -> Self {
        Self::at_most(measured, figure)
    }

    /// The goal is stricter than the gate.
    pub(crate) fn gate_and_goal(gate: f64, goal: f64, measured: f64) -> Self {
        match Self::at_most(gate, measured) {
            Self::Pass if measured > goal => Self::Gate,
            verdict => verdict,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Gate => "gate only",
            Self::Fail => "FAIL",
            Self::Void => "void",
            Self::Info => "",
        }
    }
}

struct Row {
    section: &'static str,
    what: String,
    measured: String,
    figure: String,
    verdict: Verdict,
    is_void: bool,
}

/// Everything measured so far.
#[derive(Default)]
pub(crate) struct Report {
    section: &'static str,
    is_void: bool,
    rows: Vec<Row>,
    losses: Vec<String>,
}

impl Report {
    pub(crate) fn open(&mut self, section: &'static str, what: &str) {
        self.section = section;
        self.is_void = false;
        println!("\n── {section}: {what}");
    }

    /// Something a reader should know.
    pub(crate) fn note(&self, text: &str) {
        for line in text.lines() {
            println!("   {line}");
        }
    }

    /// A measurement next to its figure.
    pub(crate) fn row(&mut self, what: &str, measured: String, figure: &str, verdict: Verdict) {
        println!("{}", line(what, &measured, figure, self.mark(verdict)));
        self.rows.push(Row {
            section: self.section,
            what: what.to_owned(),
            measured,
            figure: figure.to_owned(),
            verdict,
            is_void: self.is_void,
        });
    }

    /// Prints a measurement that has no target. It is not printed again at the end.
    pub(crate) fn info(&self, what: &str, measured: &str) {
        println!("{}", line(what, measured, "", ""));
    }

    /// Measures a contender against itself. If that is not even, all that this section
    /// measures is void.
    pub(crate) fn check_itself(&mut self, contender: &mut Contender<'_>, plan: &Plan) {
        let ratio = against_itself(contender, plan).ratio;
        self.check_even(contender.name, &ratio);
    }

    /// Checks a ratio that was measured already.
    pub(crate) fn check_even(&mut self, name: &str, ratio: &Spread) {
        let is_even = ratio.is_even();
        self.info(&format!("A/A: {name} / itself"), &format!("{ratio}"));
        self.is_void = !is_even;
        if self.is_void {
            self.note(
                "VOID: the same thing twice differs. What follows means nothing: run it again.",
            );
        }
    }

    /// Compares gridkv with a rival that it is to be ahead of.
    pub(crate) fn ahead(
        &mut self,
        ours: &mut Contender<'_>,
        rival: &mut Contender<'_>,
        plan: &Plan,
    ) {
        let comparison = compare(ours, rival, plan);
        let verdict = Verdict::at_most(1.0, comparison.ratio.median);
        self.rivalry(rival.name, &comparison, "< 1: ahead", verdict);
    }

    /// Compares gridkv with a rival that there is no figure for.
    pub(crate) fn beside(
        &mut self,
        ours: &mut Contender<'_>,
        rival: &mut Contender<'_>,
        plan: &Plan,
    ) {
        let comparison = compare(ours, rival, plan);
        self.rivalry(rival.name, &comparison, "", Verdict::Info);
    }

    /// A ratio in which less is better, with what both sides measured in nanoseconds.
    pub(crate) fn rivalry(
        &mut self,
        rival: &str,
        comparison: &Comparison,
        figure: &str,
        verdict: Verdict,
    ) {
        let Comparison { ratio, a, b } = comparison;
        self.row(&format!("gridkv / {rival}"), format!("{ratio}"), figure, verdict);
        self.info("", &format!("{:.1} ns against {:.1} ns", a.median, b.median));
        if ratio.median > 1.0 {
            self.lose(format!(
                "{rival} takes less: gridkv needs {:.2} times as long",
                ratio.median
            ));
        }
    }

    /// A case where a rival is better.
    pub(crate) fn lose(&mut self, how: String) {
        self.losses.push(format!(
            "{}: {how}{}",
            self.section,
            if self.is_void { " (void)" } else { "" }
        ));
    }

    /// Prints the figures again, together, and where gridkv loses.
    pub(crate) fn close(&self) {
        println!("\n── figures");
        let mut section = "";
        for row in self.rows.iter().filter(|row| row.verdict != Verdict::Info) {
            if row.section != section {
                section = row.section;
                println!("{section}");
            }
            let verdict = if row.is_void { "void" } else { row.verdict.text() };
            println!("{}", line(&row.what, &row.measured, &row.figure, verdict));
        }
        println!("\n── where gridkv loses");
        for loss in &self.losses {
            println!("   {loss}");
        }
        if self.losses.is_empty() {
            println!("   nowhere, in what was measured");
        }
    }

    fn mark(&self, verdict: Verdict) -> &'static str {
        if self.is_void && verdict != Verdict::Info { "void" } else { verdict.text() }
    }
}

fn line(what: &str, measured: &str, figure: &str, verdict: &str) -> String {
    format!("   {what:<38} {measured:<40} {figure:<22} {verdict}").trim_end().to_owned()
}

/// A number with a thin mark between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration, given in nanoseconds, as text with the unit that suits it.
pub(crate) fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e7 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}
