//! `shoal operator ls`.

use comfy_table::Table;
use node_api::{Route, types::OperatorView};

use crate::{
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Failure},
    table::{NOTHING, countdown, span, table},
};

pub(super) async fn run(context: &Context<'_>) -> Result<Exit, Failure> {
    let now_ms = now_ms();
    let answer = context.client.get(&Route::to(&["operators"])).await;
    context.list(answer, |operators| list(operators, now_ms))
}

fn list(operators: &[OperatorView], now_ms: u64) -> Table {
    let rows = operators.iter().map(|operator| {
        let expires = operator.expires_ms.map(|end| countdown(end, now_ms));
        let age_ms = now_ms.saturating_sub(operator.created_ms);
        vec![
            operator.name.clone(),
            operator.role.clone(),
            format!("{} ago", span(age_ms)),
            expires.unwrap_or_else(|| NOTHING.into()),
            operator.serials.join(","),
        ]
    });
    table(&["NAME", "ROLE", "MADE", "EXPIRES", "SERIALS"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_who_may_do_what_for_how_long() {
        let alice = OperatorView {
            name: "alice".into(),
            role: "viewer".into(),
            created_ms: 0,
            serials: vec!["0a".into(), "0b".into()],
            expires_ms: Some(90 * 86_400_000),
        };
        let bob = OperatorView {
            name: "bob".into(),
            role: "admin".into(),
            serials: vec![],
            expires_ms: None,
            ..alice.clone()
        };
        insta::assert_snapshot!(list(&[alice, bob], 259_200_000).trim_fmt(), @r"
        NAME   ROLE    MADE     EXPIRES    SERIALS
        alice  viewer  3 d ago  in 87d 0h  0a,0b
        bob    admin   3 d ago  -          -
        ");
    }
}
