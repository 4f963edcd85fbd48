//! Money moves between two accounts, whole or not at all.

use larder::{Cache, Error, Transaction};

/// The balance of an account, as `get` shows a number: decimal text.
fn balance(tx: &Transaction, account: &str) -> larder::Result<i64> {
    let Some(text) = tx.get(account)? else {
        return Ok(0);
    };
    let number = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::Aborted {
        what: format!("{account} holds no amount"),
    })
}

fn transfer(cache: &Cache, from: &str, to: &str, amount: i64) -> larder::Result<()> {
    cache.transact(|tx| {
        tx.decr(from, amount, 0)?;
        tx.incr(to, amount, 0)?;
        // A transaction reads its own writes; an error undoes both.
        if balance(tx, from)? < 0 {
            return Err(Error::Aborted {
                what: format!("{from} has less than {amount}"),
            });
        }
        Ok(())
    })
}

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    cache.incr("alice", 100, 0)?;
    cache.incr("bob", 20, 0)?;

    transfer(&cache, "alice", "bob", 70)?;
    assert_eq!(cache.get("alice")?.expect("an account"), "30");
    assert_eq!(cache.get("bob")?.expect("an account"), "90");

    let refused = transfer(&cache, "alice", "bob", 31).expect_err("alice has only 30");
    println!("refused: {refused}");
    assert_eq!(cache.get("alice")?.expect("an account"), "30");
    assert_eq!(cache.get("bob")?.expect("an account"), "90");
    cache.close()
}
