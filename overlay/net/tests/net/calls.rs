//! Calls and streams between two admitted nodes.

use std::time::{Duration, Instant};

use overlay_net::{CallError, Channel, NodeKey, Refused};

use crate::nodes::{PATIENCE, pair};

#[tokio::test]
async fn a_call_comes_back_with_the_peers_answer() {
    let (_, a, mut b) = pair();
    let mut calls = b.incoming.take_calls(Channel::Command).unwrap();
    let caller = a.id.clone();
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            assert_eq!(call.from, caller);
            let answer = [&call.body[..], b" yourself"].concat();
            call.reply.send(Ok(answer)).unwrap();
        }
    });
    let answer = a
        .net
        .call(&b.id, Channel::Command, b"hello".to_vec(), PATIENCE)
        .await;
    assert_eq!(answer.unwrap(), b"hello yourself");
}

#[tokio::test]
async fn answers_find_their_calls_in_whatever_order_they_come() {
    let (_, a, mut b) = pair();
    let mut calls = b.incoming.take_calls(Channel::Raft).unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(call) = calls.recv().await {
            held.push(call);
            if held.len() == 50 {
                for call in held.drain(..).rev() {
                    call.reply.send(Ok(call.body)).unwrap();
                }
            }
        }
    });
    let asked = (0..50_u8).map(|n| {
        let net = a.net.clone();
        let to = b.id.clone();
        async move {
            let answer = net.call(&to, Channel::Raft, vec![n], PATIENCE).await;
            assert_eq!(answer.unwrap(), [n]);
        }
    });
    futures::future::join_all(asked).await;
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_one_is_refused() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Raft);
    let max = Channel::Raft.frame_bytes_max();
    let body = vec![0x5a; max];
    let answer = a
        .net
        .call(&b.id, Channel::Raft, body.clone(), PATIENCE)
        .await;
    assert!(answer.unwrap() == body);
    let error = a
        .net
        .call(&b.id, Channel::Raft, vec![0; max + 1], PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(error.code(), "CallTooLargeError");
    assert!(error.is_unsent());
}

#[tokio::test]
async fn a_handlers_refusal_keeps_its_code_and_hint() {
    let (_, a, mut b) = pair();
    let mut calls = b.incoming.take_calls(Channel::Command).unwrap();
    tokio::spawn(async move {
        let call = calls.recv().await.unwrap();
        let refused = Refused::new("NotLeaderError", "another node leads", "ask it");
        call.reply.send(Err(refused)).unwrap();
        // The next one is dropped unanswered.
        drop(calls.recv().await);
        calls
    });
    let call = || a.net.call(&b.id, Channel::Command, vec![], PATIENCE);
    let error = call().await.unwrap_err();
    assert_eq!((error.code(), error.hint()), ("NotLeaderError", "ask it"));
    assert_eq!(call().await.unwrap_err().code(), "CallUnservedError");
    drop(b.incoming.take_calls(Channel::Raft));
    let error = a
        .net
        .call(&b.id, Channel::Raft, vec![], PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(
        error.code(),
        "CallUnservedError",
        "nobody serves the channel"
    );
}

#[tokio::test]
async fn a_node_without_an_address_is_unreachable_at_once() {
    let (_, a, _b) = pair();
    let unknown = NodeKey::generate().node_id();
    let began = Instant::now();
    let error = a
        .net
        .call(&unknown, Channel::Command, vec![], PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(1));
    let own = a.net.node().clone();
    let error = a.net.call(&own, Channel::Command, vec![], PATIENCE).await;
    assert!(error.is_err(), "a node does not call itself");
}

#[tokio::test]
async fn a_call_that_nobody_answers_ends_at_its_deadline() {
    let (_, a, b) = pair();
    let began = Instant::now();
    let deadline = Duration::from_millis(300);
    let error = a
        .net
        .call(&b.id, Channel::Command, vec![], deadline)
        .await
        .unwrap_err();
    assert_eq!(error, CallError::Timeout { after: deadline });
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn streams_carry_frames_both_ways_until_one_side_ends_them() {
    let (_, a, mut b) = pair();
    let mut streams = b.incoming.take_streams(Channel::Watch).unwrap();
    let mut near = a.net.open(&b.id, Channel::Watch).await.unwrap();
    let (from, mut far) = streams.recv().await.unwrap();
    assert_eq!(from, a.id);
    for size in [0, 1, 100_000] {
        near.send(vec![1; size]).await.unwrap();
        assert_eq!(far.next().await.unwrap(), vec![1; size]);
        far.send(vec![2; size]).await.unwrap();
        assert_eq!(near.next().await.unwrap(), vec![2; size]);
    }
    let error = near
        .send(vec![0; Channel::Watch.frame_bytes_max() + 1])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "StreamFrameTooLargeError");
    drop(near);
    assert_eq!(far.next().await, None);
}

#[tokio::test]
async fn a_stuck_channel_does_not_hold_up_heartbeats() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Raft);
    // Nobody reads these: the stream's window fills and stays full.
    let _stuck = b.incoming.take_calls(Channel::Snapshot).unwrap();
    let mut watch = a.net.open(&b.id, Channel::Watch).await.unwrap();
    let net = a.net.clone();
    let to = b.id.clone();
    let flood = tokio::spawn(async move {
        let _ = net
            .call(&to, Channel::Snapshot, vec![0; 60 << 20], PATIENCE)
            .await;
    });
    let other = tokio::spawn(async move { while watch.send(vec![0; 1 << 20]).await.is_ok() {} });
    for _ in 0..100 {
        let answer = a
            .net
            .call(&b.id, Channel::Raft, vec![1], Duration::from_secs(1))
            .await;
        assert_eq!(answer.unwrap(), [1]);
    }
    flood.abort();
    other.abort();
}
