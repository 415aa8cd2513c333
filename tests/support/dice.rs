//! Numbers that look random, the same ones every time.

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Returns a number below `sides`: SplitMix64.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % sides
    }
}
