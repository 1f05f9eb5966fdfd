//! Claims about version 1 of the lease messages.

use proptest::prelude::*;

use super::*;

const VIP: VipId = VipId::from_bytes([7; 16]);

fn every_kind() -> Vec<Message> {
    let (vip, epoch) = (VIP, Epoch(300));
    let profiles = LeaseProfile::ALL;
    vec![
        Message::Renew {
            life: Life(u64::MAX),
            sent: Time::from_micros(300),
            renewals: profiles
                .map(|profile| Renewal {
                    vip,
                    epoch,
                    profile,
                })
                .to_vec(),
        },
        Message::Ack {
            life: Life(2),
            sent: Time::from_micros(1),
            granted: vec![Granted { vip, epoch }],
        },
        Message::Close { vip, epoch },
        Message::Closed { vip, epoch },
        Message::LetGo { vip, epoch },
        Message::RestsOnJoint {
            vip,
            epoch,
            voters_since: LogIndex(5),
        },
    ]
}

#[test]
fn the_bytes_of_every_kind_stay_what_they_are() {
    let id = [7; 16];
    let one = |kind: u8, rest: &[u8]| [&[1, kind][..], &id, &[0xac, 0x02], rest].concat();
    let mut renew = vec![1, 0];
    renew.extend([0xff; 9]);
    renew.extend([1, 0xac, 0x02, 4]);
    for profile in 0..4 {
        renew.extend(id);
        renew.extend([0xac, 0x02, profile]);
    }
    let mut ack = vec![1, 1, 2, 1, 1];
    ack.extend(id);
    ack.extend([0xac, 0x02]);
    let golden = [
        renew,
        ack,
        one(2, &[]),
        one(3, &[]),
        one(4, &[]),
        one(5, &[5]),
    ];
    for (message, golden) in every_kind().iter().zip(golden) {
        assert_eq!(encode(message), golden, "{message:?}");
        assert_eq!(decode(&golden).as_ref(), Ok(message));
    }
}

#[test]
fn a_torn_a_foreign_and_an_overlong_message_are_told_apart() {
    assert_eq!(decode(&[]), Err(DecodeError::Empty));
    assert_eq!(decode(&[2, 0]), Err(DecodeError::Version { version: 2 }));
    for message in every_kind() {
        let bytes = encode(&message);
        for cut in 1..bytes.len() {
            let error = decode(&bytes[..cut]).unwrap_err();
            assert_eq!(error.code(), "LeaseMessageMalformedError", "cut at {cut}");
        }
        let long = [bytes, vec![0]].concat();
        assert_eq!(decode(&long), Err(DecodeError::Trailing { bytes: 1 }));
    }
    let huge = vec![1; MESSAGE_BYTES_MAX + 1];
    assert_eq!(
        decode(&huge).unwrap_err().code(),
        "LeaseMessageTooLongError"
    );
}

#[test]
fn the_largest_message_fits_and_one_entry_more_is_refused() {
    let granted = |count| Message::Ack {
        life: Life(u64::MAX),
        sent: Time::from_micros(u64::MAX),
        granted: vec![
            Granted {
                vip: VIP,
                epoch: Epoch(u64::MAX)
            };
            count
        ],
    };
    let largest = encode(&granted(RENEWALS_PER_MESSAGE_MAX));
    assert!(largest.len() <= MESSAGE_BYTES_MAX);
    assert!(decode(&largest).is_ok());
    let more = encode(&granted(RENEWALS_PER_MESSAGE_MAX + 1));
    let count = RENEWALS_PER_MESSAGE_MAX + 1;
    assert_eq!(decode(&more), Err(DecodeError::TooMany { count }));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_fail_otherwise_than_by_refusing(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        own in any::<bool>(),
    ) {
        if own && let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }
}
