//! How two contenders are compared: in slices A B B A, as the median ratio of neighbouring slices.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::keys::{CHUNK, Draws, Key};

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// One slice.
    pub slice: Duration,
    /// How many pairs of slices.
    pub pairs: usize,
    /// Whether the run only proves that it runs.
    pub quick: bool,
}

impl Plan {
    /// `full`, or `quick` in a quick run.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Something that can be measured for the length of a slice. Gives what the slice measured, such as
/// nanoseconds an operation.
pub struct Contender<'a> {
    /// What it is called in the report.
    pub name: &'static str,
    run: Box<dyn FnMut(Duration) -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    /// Measured by `run`.
    pub fn new(name: &'static str, run: impl FnMut(Duration) -> f64 + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Nanoseconds a call of `read`, over keys drawn from `draws`. The loop is compiled with `read`
    /// inside it.
    pub fn reads(name: &'static str, draws: &'a Draws, read: impl Fn(&Key) -> u64 + 'a) -> Self {
        Self::batches(name, draws, 1, move |keys| read(black_box(&keys[0])))
    }

    /// Nanoseconds a call of `read`, if each call waits for the value of the one before: the
    /// processor cannot overlap them.
    pub fn reads_in_turn(
        name: &'static str,
        draws: &'a Draws,
        read: impl Fn(&Key) -> u64 + 'a,
    ) -> Self {
        let zero = black_box(0);
        Self::batches(name, draws, CHUNK, move |keys| {
            let mut sum = 0_u64;
            for place in 0..keys.len() {
                sum = sum.wrapping_add(read(black_box(&keys[place + (sum as usize & zero)])));
            }
            sum
        })
    }

    /// Nanoseconds a key, where `read` takes `batch` keys at once, which divides [`CHUNK`].
    pub fn batches(
        name: &'static str,
        draws: &'a Draws,
        batch: usize,
        read: impl Fn(&[Key]) -> u64 + 'a,
    ) -> Self {
        assert_eq!(CHUNK % batch, 0, "a chunk is whole batches");
        Self::new(name, move |slice| ns_per_key(draws, slice, batch, &read))
    }

    /// One slice.
    pub fn slice(&mut self, length: Duration) -> f64 {
        (self.run)(length)
    }
}

/// Nanoseconds a key during one slice.
pub fn ns_per_key(
    draws: &Draws,
    slice: Duration,
    batch: usize,
    read: impl Fn(&[Key]) -> u64,
) -> f64 {
    let mut walk = draws.walk();
    let mut sum = 0_u64;
    let mut keys = 0_u64;
    let start = Instant::now();
    loop {
        for batch in walk.chunk().chunks_exact(batch) {
            sum = sum.wrapping_add(read(batch));
        }
        keys += CHUNK as u64;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            black_box(sum);
            return elapsed.as_nanos() as f64 / keys as f64;
        }
    }
}

/// Two contenders, measured side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A / B, one for each pair of neighbouring slices.
    pub ratio: Spread,
    /// What A measured.
    pub a: Spread,
    /// What B measured.
    pub b: Spread,
}

/// A B B A A B B A … after a warm-up of both.
pub fn compare(a: &mut Contender<'_>, b: &mut Contender<'_>, plan: &Plan) -> Comparison {
    a.slice(plan.slice / 2);
    b.slice(plan.slice / 2);
    let (mut as_measured, mut bs_measured) = (Vec::new(), Vec::new());
    for pair in 0..plan.pairs {
        if pair % 2 == 0 {
            as_measured.push(a.slice(plan.slice));
            bs_measured.push(b.slice(plan.slice));
        } else {
            bs_measured.push(b.slice(plan.slice));
            as_measured.push(a.slice(plan.slice));
        }
    }
    let ratios = as_measured.iter().zip(&bs_measured).map(|(a, b)| a / b).collect();
    Comparison { ratio: Spread::of(ratios), a: Spread::of(as_measured), b: Spread::of(bs_measured) }
}

/// Compares a contender with itself.
pub fn against_itself(contender: &mut Contender<'_>, plan: &Plan) -> Comparison {
    contender.slice(plan.slice / 2);
    let slices: Vec<f64> = (0..2 * plan.pairs).map(|_| contender.slice(plan.slice)).collect();
    let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
    for (pair, slices) in slices.chunks_exact(2).enumerate() {
        firsts.push(slices[pair % 2]);
        seconds.push(slices[1 - pair % 2]);
    }
    let ratios = firsts.iter().zip(&seconds).map(|(a, b)| a / b).collect();
    Comparison { ratio: Spread::of(ratios), a: Spread::of(firsts), b: Spread::of(seconds) }
}

/// The middle and the width of some measurements.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The first and third quartile.
    pub quartiles: (f64, f64),
    /// The least and the most.
    pub range: (f64, f64),
}

impl Spread {
    /// # Panics
    ///
    /// If there is no measurement.
    pub fn of(mut measured: Vec<f64>) -> Self {
        assert!(!measured.is_empty(), "something was measured");
        measured.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (measured.len() - 1) as f64;
            let (low, high) = (measured[place.floor() as usize], measured[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Self { median: at(0.5), quartiles: (at(0.25), at(0.75)), range: (at(0.0), at(1.0)) }
    }

    /// Whether this, the ratio of a contender to itself, is what it must be: 1 within its own
    /// spread, and within 5 %.
    pub fn is_even(&self) -> bool {
        self.range.0 <= 1.0 && 1.0 <= self.range.1 && (self.median - 1.0).abs() <= 0.05
    }
}

/// Median, quartiles and range, with two decimals, or the precision that is asked for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self { median, quartiles: (low, high), range: (least, most) } = self;
        write!(
            f,
            "{median:.digits$} [{low:.digits$}–{high:.digits$}; {least:.digits$}–{most:.digits$}]"
        )
    }
}
