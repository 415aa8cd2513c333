//! What a frame costs at each size of records: both ends in one thread, nothing but TLS.
//!
//! `cargo test --release record_sizes -- --ignored --nocapture`

use std::time::Instant;

use super::*;

const FRAMES: usize = 200_000;

/// Sends frames in records of this size, and returns the nanoseconds a frame.
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn nanos(record_bytes: usize, body_bytes: usize, frames: usize) -> u64 {
    let (mut client, mut server) = ends(Cuts::default());
    client.tls = of_large_records();
    shake_hands(&mut client, &mut server);
    run(&mut client, &mut server);
    let frame = frame(0, body_bytes);
    let mut wire = vec![0; 0];
    let mut scratch = vec![0; 64 << 10];
    let mut got = 0;
    let start = Instant::now();
    while got < frames {
        while client.queue.cost_bytes() < 48 << 10 {
            let mut copy = Encoded::with_capacity(frame.len());
            copy.extend_from_slice(&frame);
            client.queue.push(copy);
        }
        while !client.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 160];
            let used = client.queue.slices(&mut slices, record_bytes);
            let sealed = client.tls.session.writer().write_vectored(&slices[..used]).unwrap();
            client.queue.taken(sealed);
        }
        while client.tls.wants_write() {
            client.tls.session.write_tls(&mut wire).unwrap();
        }
        let mut stream = Source(&wire);
        loop {
            server.frames.shrink();
            while server.frames.next().unwrap().is_some() {
                got += 1;
            }
            let budget = usize::MAX;
            let filled = server.tls.fill(&mut stream, &mut scratch, &mut server.frames, budget).1;
            if filled == Filled::Drained && !server.frames.is_in_frame() {
                break;
            }
        }
        wire.clear();
    }
    (start.elapsed().as_nanos() / got as u128) as u64
}

struct Source<'a>(&'a [u8]);

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Source<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        unreachable!("the receiver writes nothing")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "it measures"]
fn record_sizes() {
    let sizes = [1024, 2048, 4096, 8192, 16_384 + RECORD_OVERHEAD_BYTES];
    for (body_bytes, frames) in [(192, FRAMES), (4000, FRAMES / 10), (30_000, FRAMES / 80)] {
        let mut results = vec![Vec::new(); sizes.len()];
        for _ in 0..5 {
            for (size, results) in sizes.iter().zip(&mut results) {
                results.push(nanos(size - RECORD_OVERHEAD_BYTES, body_bytes, frames));
            }
        }
        for (size, mut results) in sizes.iter().zip(results) {
            results.sort_unstable();
            let (low, high) = (results[0], results[4]);
            println!("{body_bytes} B, records of {size}: {} ns ({low}..{high})", results[2]);
        }
    }
}
