//! Which of other nodes' requests are handled beside which, and how many wait.
//!
//! Decides: that commands, and the reads that wait for them, have places of their own, so that what
//! takes seconds (certificates, probes, questions to a K3s) keeps no command waiting; and who is told
//! that there is no place left. Never: what is answered.

use consensus_core::NodeId;
use node_api::ApiError;
use overlay_net::{IncomingCall, Refused};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::mesh::{
    asking::BUSY,
    peer_wire::{PeerAnswer, PeerRequest, decode, encode},
};

/// Requests of a lane handled at once.
const HANDLERS_MAX: usize = 64;
/// Requests of a lane that wait: of a large mesh's nodes most may want something at once.
const WAITING_MAX: usize = 512;

/// A request whose sender waits.
struct Asked {
    from: NodeId,
    request: PeerRequest,
    reply: oneshot::Sender<Result<Vec<u8>, Refused>>,
}

/// Has every request answered until there are no more.
pub(super) async fn serve<A>(
    mut calls: mpsc::Receiver<IncomingCall>,
    answer: impl Fn(NodeId, PeerRequest) -> A + Clone,
) where
    A: Future<Output = PeerAnswer> + Send + 'static,
{
    let (agreement, commands) = mpsc::channel(WAITING_MAX);
    let (rest, others) = mpsc::channel(WAITING_MAX);
    let sorting = async move {
        while let Some(IncomingCall { from, body, reply }) = calls.recv().await {
            match decode::<PeerRequest>(&body) {
                Ok(request) => {
                    let asked = Asked {
                        from,
                        request,
                        reply,
                    };
                    sort(asked, &agreement, &rest).await;
                }
                Err(error) => refuse(reply, error),
            }
        }
    };
    tokio::join!(
        sorting,
        handle(commands, answer.clone()),
        handle(others, answer)
    );
}

/// Puts a request into its lane.
async fn sort(asked: Asked, agreement: &mpsc::Sender<Asked>, rest: &mpsc::Sender<Asked>) {
    if let PeerRequest::Propose(_) | PeerRequest::ReadIndex = asked.request {
        // Where so many are not agreed in time, little else would be.
        let _ = agreement.send(asked).await;
    } else if let Err(refused) = rest.try_send(asked) {
        let message = "the asked node has as many requests under way as it takes";
        let hint = "try again in a moment, and less at once";
        let error = ApiError::new(BUSY, message, hint);
        refuse(refused.into_inner().reply, error);
    }
}

fn refuse(reply: oneshot::Sender<Result<Vec<u8>, Refused>>, error: ApiError) {
    // Who no longer waits needs no answer.
    let _ = reply.send(Ok(encode(&PeerAnswer::Failed(error))));
}

async fn handle<A>(mut asked: mpsc::Receiver<Asked>, answer: impl Fn(NodeId, PeerRequest) -> A)
where
    A: Future<Output = PeerAnswer> + Send + 'static,
{
    let mut handlers = JoinSet::new();
    while let Some(Asked {
        from,
        request,
        reply,
    }) = asked.recv().await
    {
        while handlers.len() >= HANDLERS_MAX {
            handlers.join_next().await;
        }
        let answer = answer(from, request);
        handlers.spawn(async move {
            let _ = reply.send(Ok(encode(&answer.await)));
        });
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::LogIndex;

    use super::*;

    fn ask(request: &PeerRequest) -> (IncomingCall, oneshot::Receiver<Result<Vec<u8>, Refused>>) {
        let rest: String = std::iter::repeat_n('a', 44).collect();
        let (reply, answer) = oneshot::channel();
        let call = IncomingCall {
            from: format!("12D3KooW{rest}").parse().unwrap(),
            body: encode(request),
            reply,
        };
        (call, answer)
    }

    #[tokio::test]
    async fn what_takes_long_keeps_no_command_waiting_and_is_refused_when_it_is_too_much() {
        const SURPLUS: usize = 100;
        let (door, calls) = mpsc::channel(1);
        // Everything but commands takes for ever.
        let serving = tokio::spawn(serve(calls, |_, request| async move {
            if matches!(request, PeerRequest::ReadIndex) {
                PeerAnswer::ReadAt(LogIndex(7))
            } else {
                std::future::pending().await
            }
        }));
        let mut slow = Vec::new();
        for _ in 0..HANDLERS_MAX + WAITING_MAX + SURPLUS {
            let (call, answer) = ask(&PeerRequest::Depart { taken_back: false });
            door.send(call).await.unwrap();
            slow.push(answer);
        }
        let (call, answer) = ask(&PeerRequest::ReadIndex);
        door.send(call).await.unwrap();
        let answer = answer.await.unwrap().unwrap();
        assert!(matches!(
            decode(&answer),
            Ok(PeerAnswer::ReadAt(LogIndex(7)))
        ));
        let refused = slow.iter_mut().filter_map(|answer| {
            let bytes = answer.try_recv().ok()?.ok()?;
            match decode(&bytes) {
                Ok(PeerAnswer::Failed(error)) => Some(error.code),
                Ok(_) | Err(_) => None,
            }
        });
        let refused: Vec<String> = refused.collect();
        // One more is in hand: it is the next to be handled.
        assert!(refused.len() >= SURPLUS - 1, "{}", refused.len());
        assert!(refused.iter().all(|code| code == BUSY));
        serving.abort();
    }
}
