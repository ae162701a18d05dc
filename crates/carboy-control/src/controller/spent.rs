//! What a scope spent in all, read from the ledger's rows: those of a run that has ended are in no snapshot any more.
//!
//! *Must never* be asked on the way of a request: it reads the disk.

use carboy_core::budget::{MeterLine, Scope};
use carboy_store::controller::protocol::Call;
use carboy_store::controller::{Line, LineError};
use carboy_store::ledger::{UsageQuery, UsageRow};

/// Asks what a scope spent, by what is metered; nothing where it never spent anything. Without caps, and without what is held.
pub async fn spent_by(line: &mut Line, scope: &Scope) -> Result<Vec<MeterLine>, LineError> {
    let query = UsageQuery { scope: Some(scope.clone()), ..UsageQuery::default() };
    let text = line.text(Call::Usage(query)).await?;
    let rows: Vec<UsageRow> = serde_json::from_str(&text).map_err(|_| LineError::Misunderstood)?;
    let of_scope = rows.into_iter().filter(|row| row.scope == *scope);
    Ok(of_scope.map(line_of).collect())
}

fn line_of(row: UsageRow) -> MeterLine {
    let UsageRow { meter, requests, usage, charged, estimated, .. } = row;
    let (held, caps, rate) = (Default::default(), Vec::new(), [0; 3]);
    MeterLine { meter, spent: charged, held, caps, rate, usage, estimated, requests }
}
