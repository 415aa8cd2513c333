//! What a session holds, counted by the allocator.

use super::*;
use crate::counting::taken;

/// Both ends in turn, so that the memory of one can be told.
struct Pair {
    client: End,
    server: End,
}

fn pair() -> Pair {
    let (client, server) = ends(Cuts::default());
    Pair { client, server }
}

/// The figures of the module's documentation.
#[test]
fn an_idle_session_holds_8_kib_and_a_handshake_little_more() {
    let own = settings();
    let mut most = [0; 2];
    let mut held = [0; 2];
    for _ in 0..3 {
        let (client_tls, client_new, _) = taken(|| Tls::client(&own).unwrap());
        let (server_tls, server_new, _) = taken(|| Tls::server(&own).unwrap());
        let (here, there) = Pipe::pair(Cuts::default());
        let mut client = End::new(client_tls, here);
        let mut server = End::new(server_tls, there);
        // The frame buffers are not the session's.
        client.frames.space();
        server.frames.space();
        let mut live = [client_new, server_new];
        most = live;
        for _ in 0..6 {
            for (which, end) in [&mut client, &mut server].into_iter().enumerate() {
                let before = end.pipe.held();
                let ((), more, peak) = taken(|| {
                    end.flush();
                    end.fill(64 << 10);
                    end.flush();
                });
                let pipe = end.pipe.held() as isize - before as isize;
                most[which] = most[which].max(live[which] + peak);
                live[which] += more - pipe;
            }
        }
        assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking());
        held = live;
    }
    println!("an idle client and server hold {held:?} bytes; at the most {most:?}");
    assert!(held.iter().all(|held| *held < 9 << 10), "{held:?}");
    assert!(most.iter().all(|most| *most < 12 << 10), "{most:?}");
}

/// What a stranger can make a node hold by anything that it sends.
#[test]
fn a_stranger_holds_less_than_48_kib() {
    let mut hello = vec![1, 0, 0xf0, 0];
    hello.resize(60_000, 3);
    let many: Vec<u8> = (0..700).flat_map(|_| [22, 3, 1, 0, 1, 1]).collect();
    let long = [[22, 3, 1, 0x40, 0].as_slice(), &hello[..16_384]].concat();
    for bytes in [many, long, vec![22, 3, 1, 0x3f, 0xff]] {
        let Pair { client: _client, mut server } = pair();
        server.pipe.inject(&bytes);
        let ((), held, most) = taken(|| {
            for _ in 0..20 {
                server.fill(64 << 10);
            }
        });
        println!("a stranger: {held} bytes more than a new session, {most} at the most");
        assert!(most < 32 << 10);
    }
}

/// A member that sends a long record without its end, or does not read.
#[test]
fn a_peer_makes_a_session_hold_little() {
    let Pair { mut client, mut server } = pair();
    client.tls = of_large_records();
    shake_hands(&mut client, &mut server);
    run(&mut client, &mut server);
    client.tls.session.writer().write_all(&[0; 16 << 10]).unwrap();
    client.flush();
    server.pipe.truncate(1);
    let ((), held, most) = taken(|| while server.fill(64 << 10).1 == Filled::Stopped {});
    println!("an unfinished record: {held} bytes, {most} at the most");
    assert!(held < 32 << 10 && most < 48 << 10);

    let Pair { mut client, mut server } = pair();
    shake_hands(&mut client, &mut server);
    run(&mut client, &mut server);
    client.pipe.capacity(0);
    client.queue.push(frame(0, 1 << 20));
    let ((), held, most) = taken(|| client.flush());
    println!("records that wait: {held} bytes, {most} at the most");
    assert!(held < 68 << 10 && most < 72 << 10);
}
