//! The shop's records as a file of this user's alone, and who may see what of them.
//!
//! ```text
//!  e-mail | name and zip ─▶ Known customer ─▶ Proven<Customer> (one in a conversation) ─▶ their orders, writes
//! ```
//!
//! *Must never* give or change anything of a customer but the one whose [`Proven`] is shown, or do one confirmed request twice.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use carboy_agent::guard_state::{GuardState, Mint, NotProven, Proof, Proven};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Database, Order, Product, User};
use crate::policy::{Desk, Pricing, Refusal};

const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The layout of the file.
const SCHEMA_VERSION: i64 = 1;
/// Octets of a `db.json` that is imported.
pub const IMPORT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Products that are listed.
pub const PRODUCTS_MAX: u32 = 200;

/// The customer that this conversation is with. That it is so is said by the [`Proven`] around it, which only
/// [`Shop::recognise`] brings about.
///
/// ```compile_fail,E0451
/// let forged = retail::shop::Customer { user_id: String::new() };
/// ```
/// ```compile_fail,E0603
/// let seal = retail::shop::CustomerSeal(());
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct Customer {
    user_id: String,
}

/// What makes the mint of [`Customer`]s; its field is private.
pub struct CustomerSeal(());

impl Proof for Customer {
    const NAME: &'static str = "retail.customer";
    type Seal = CustomerSeal;
}

const CUSTOMER: Mint<Customer> = Mint::new(&CustomerSeal(()));
/// There is one slot, so there is one customer.
const SLOT: &str = "customer";
/// How a customer is known.
const VERSION: &str = "by e-mail, or name and zip code";
/// How long, in milliseconds.
pub const CUSTOMER_MS: u64 = 60 * 60 * 1000;

/// The customer of this conversation.
pub fn customer(guard: &GuardState, now_ms: u64) -> Result<Proven<Customer>, NotProven> {
    CUSTOMER.show(guard, SLOT, VERSION, now_ms)
}

/// What somebody says to be known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Their e-mail address.
    Email(String),
    /// Their name and zip code.
    NameZip {
        /// Given name.
        first: String,
        /// Family name.
        last: String,
        /// Zip code.
        zip: String,
    },
}

/// The records cannot be used, or the policy says no.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// There are none.
    #[error(
        "the shop has no records: {}; import the db.json of tau2-bench's retail domain with `retail::shop::Shop::import`",
        .0.display()
    )]
    Empty(PathBuf),
    /// The file could not be made or looked at.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Others can read it.
    #[error("{} holds customers' addresses and is not this user's alone (mode {mode:o}); chown and chmod 600 it", path.display())]
    Loose {
        /// Which.
        path: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// The file has another layout.
    #[error("{} has layout {found}, this version knows {SCHEMA_VERSION}; move it away to start anew", path.display())]
    Layout {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: i64,
    },
    /// What is imported is too large.
    #[error("{} has {bytes} octets, the limit is {IMPORT_BYTES_MAX}", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How many.
        bytes: u64,
    },
    /// A record is none.
    #[error("a record cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// The database says no.
    #[error("the database of the shop cannot be used: {0}")]
    Database(#[from] rusqlite::Error),
    /// It is not there, or it is somebody else's: nobody is told which.
    #[error("there is none that is this customer's")]
    NotFound,
    /// The policy.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key was used for something else.
    #[error("this request was used for something else")]
    KeyReused,
}

/// The records, one file.
pub struct Shop {
    database: Mutex<Connection>,
    pricing: Pricing,
}

impl Shop {
    /// Opens records that were imported before.
    pub fn open(path: &Path, pricing: Pricing) -> Result<Shop, ShopError> {
        if !path.exists() {
            return Err(ShopError::Empty(path.to_owned()));
        }
        let database = connect(path)?;
        match database.pragma_query_value(None, "user_version", |row| row.get(0))? {
            SCHEMA_VERSION => Ok(Shop { database: Mutex::new(database), pricing }),
            0 => Err(ShopError::Empty(path.to_owned())),
            found => Err(ShopError::Layout { path: path.to_owned(), found }),
        }
    }

    /// Fills a new file with a benchmark's `db.json`. A file that has records stays as it is.
    pub fn import(path: &Path, json: &Path) -> Result<(), ShopError> {
        let failed = |what| move |error| ShopError::File { what, path: json.to_owned(), error };
        let bytes = std::fs::metadata(json).map_err(failed("look at"))?.len();
        if bytes > IMPORT_BYTES_MAX {
            return Err(ShopError::TooLarge { path: json.to_owned(), bytes });
        }
        let records = serde_json::from_slice(&std::fs::read(json).map_err(failed("read"))?)?;
        fill(path, &records)
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks who that is.
    pub fn find(&self, claim: &Claim) -> Result<Option<Known>, ShopError> {
        let database = self.database();
        let id = match claim {
            Claim::Email(email) => {
                let mut found = database.prepare_cached("SELECT id FROM users WHERE email = ?1")?;
                found.query_row([email.to_lowercase()], |row| row.get(0)).optional()?
            }
            Claim::NameZip { first, last, zip } => {
                // Two of one name and place are nobody: neither is let in as the other.
                let mut found = database
                    .prepare_cached("SELECT id FROM users WHERE first = ?1 AND last = ?2 AND zip = ?3 LIMIT 2")?;
                let rows =
                    found.query_map(params![first.to_lowercase(), last.to_lowercase(), zip], |row| row.get(0))?;
                let mut ids: Vec<String> = rows.collect::<Result<_, _>>()?;
                if ids.len() == 1 { ids.pop() } else { None }
            }
        };
        Ok(id.map(|user_id| Known { user_id }))
    }

    /// The customer's own record.
    pub fn user(&self, who: &Proven<Customer>) -> Result<User, ShopError> {
        let mut database = self.database();
        user(&database.transaction()?, who)
    }

    /// An order of the customer's. One of somebody else's is found by the same statement as one that is not there: by none.
    pub fn order(&self, who: &Proven<Customer>, id: &str) -> Result<Order, ShopError> {
        let mut database = self.database();
        order(&database.transaction()?, who, id)
    }

    /// A product, for customers.
    pub fn product(&self, _: &Proven<Customer>, id: &str) -> Result<Product, ShopError> {
        let mut database = self.database();
        document(&database.transaction()?, "SELECT doc FROM products WHERE id = ?1", &[id])
    }

    /// The product that an item is of.
    pub fn product_of(&self, _: &Proven<Customer>, item: &str) -> Result<Product, ShopError> {
        let mut database = self.database();
        let sql = "SELECT p.doc FROM products p JOIN variants v ON v.product = p.id WHERE v.item = ?1";
        document(&database.transaction()?, sql, &[item])
    }

    /// Names of products, and their ids.
    pub fn products(&self, _: &Proven<Customer>) -> Result<BTreeMap<String, String>, ShopError> {
        let database = self.database();
        let mut all = database.prepare_cached("SELECT name, id FROM products ORDER BY name LIMIT ?1")?;
        let rows = all.query_map([PRODUCTS_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Changes an order of the customer's, and what it changes of them, once for one `key`: the same request again gives what
    /// it gave.
    pub fn change(
        &self,
        who: &Proven<Customer>,
        request: &Request<'_>,
        change: impl FnOnce(&mut Desk<'_>, Pricing) -> Result<(), Refusal>,
    ) -> Result<Order, ShopError> {
        let mut database = self.database();
        let write = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(done) = done(&write, who, request)? {
            return Ok(serde_json::from_value(done)?);
        }
        let (mut order, mut user) = (order(&write, who, request.order)?, user(&write, who)?);
        let mut products = BTreeMap::new();
        for item in &order.items {
            let product: Option<Product> =
                maybe(&write, "SELECT doc FROM products WHERE id = ?1", &[&item.product_id])?;
            products.extend(product.map(|product| (product.product_id.clone(), product)));
        }
        change(&mut Desk { order: &mut order, user: &mut user, products: &products }, self.pricing)?;
        put(&write, "UPDATE orders SET doc = ?2 WHERE id = ?1", &order.order_id, &order)?;
        put(&write, "UPDATE users SET doc = ?2 WHERE id = ?1", &user.user_id, &user)?;
        note(&write, who, request, &serde_json::to_value(&order)?)?;
        write.commit()?;
        Ok(order)
    }

    /// Changes the customer's own record, once for one key.
    pub fn change_user(
        &self,
        who: &Proven<Customer>,
        request: &Request<'_>,
        change: impl FnOnce(&mut User),
    ) -> Result<User, ShopError> {
        let mut database = self.database();
        let write = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(done) = done(&write, who, request)? {
            return Ok(serde_json::from_value(done)?);
        }
        let mut user = user(&write, who)?;
        change(&mut user);
        put(&write, "UPDATE users SET doc = ?2 WHERE id = ?1", &user.user_id, &user)?;
        write.execute("UPDATE users SET zip = ?2 WHERE id = ?1", [&user.user_id, &user.address.zip])?;
        note(&write, who, request, &serde_json::to_value(&user)?)?;
        write.commit()?;
        Ok(user)
    }

    /// Leaves word for a person of the shop's, once for one key.
    pub fn transfer(&self, who: &Proven<Customer>, request: &Request<'_>, summary: &str) -> Result<(), ShopError> {
        let mut database = self.database();
        let write = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if done(&write, who, request)?.is_none() {
            let id = &who.claims().user_id;
            write.execute("INSERT INTO transfers (user_id, summary) VALUES (?1, ?2)", [id, summary])?;
            note(&write, who, request, &Value::Null)?;
            write.commit()?;
        }
        Ok(())
    }

    /// Everything, as it is now: what a replayed benchmark compares.
    pub fn dump(&self) -> Result<Database, ShopError> {
        let database = self.database();
        Ok(Database {
            products: all(&database, "SELECT id, doc FROM products")?,
            users: all(&database, "SELECT id, doc FROM users")?,
            orders: all(&database, "SELECT id, doc FROM orders")?,
        })
    }

    /// Makes them the customer of this conversation, unless it has another: then they are as unknown as somebody who is not
    /// there.
    pub fn recognise(known: Option<Known>, guard: &mut GuardState, now_ms: u64) -> Result<String, NotKnown> {
        let before = customer(guard, now_ms).ok();
        let known = match (known, before) {
            (Some(known), Some(before)) if known.user_id != before.claims().user_id => {
                return Err(NotKnown::OneCustomer);
            }
            (None, Some(_)) => return Err(NotKnown::OneCustomer),
            (None, None) => return Err(NotKnown::Nobody),
            (Some(known), _) => known,
        };
        let claims = Customer { user_id: known.user_id.clone() };
        let issued = CUSTOMER.issue(guard, SLOT, VERSION, now_ms, now_ms.saturating_add(CUSTOMER_MS), claims);
        issued.map(|()| known.user_id).map_err(|_| NotKnown::Nobody)
    }
}

/// Somebody who is in the records.
#[derive(Debug)]
pub struct Known {
    user_id: String,
}

/// Why somebody does not become the customer of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKnown {
    /// Nobody is known by that.
    Nobody,
    /// The conversation has its customer, and that is somebody else, or nobody.
    OneCustomer,
}

/// A write: what for, and the key that makes it one.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The tool.
    pub tool: &'static str,
    /// The order, or nothing.
    pub order: &'a str,
    /// The same for the same confirmed request, however often it is tried.
    pub key: &'a str,
}

fn connect(path: &Path) -> Result<Connection, ShopError> {
    let failed = |what| move |error| ShopError::File { what, path: path.to_owned(), error };
    if let Some(directory) = path.parent().filter(|directory| *directory != Path::new("")) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("make the directory of"))?;
    }
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
    let meta = options.open(path).and_then(|file| file.metadata()).map_err(failed("open"))?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(ShopError::Loose { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(BUSY_WAIT)?;
    database.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;")?;
    Ok(database)
}

/// Lays the file out and writes the records, in one transaction.
fn fill(path: &Path, records: &Database) -> Result<(), ShopError> {
    let mut database = connect(path)?;
    let lay = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match lay.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? {
        0 => {}
        SCHEMA_VERSION => return Ok(()),
        found => return Err(ShopError::Layout { path: path.to_owned(), found }),
    }
    lay.execute_batch(SCHEMA)?;
    for (id, user) in &records.users {
        let (first, last) = (user.name.first_name.to_lowercase(), user.name.last_name.to_lowercase());
        let row = params![id, user.email.to_lowercase(), first, last, user.address.zip, serde_json::to_string(user)?];
        lay.execute("INSERT INTO users (id, email, first, last, zip, doc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row)?;
    }
    for (id, product) in &records.products {
        put(&lay, "INSERT INTO products (id, doc, name) VALUES (?1, ?2, '')", id, product)?;
        lay.execute("UPDATE products SET name = ?2 WHERE id = ?1", [id, &product.name])?;
        for item in product.variants.keys() {
            lay.execute("INSERT INTO variants (item, product) VALUES (?1, ?2)", [item, id])?;
        }
    }
    for (id, order) in &records.orders {
        put(&lay, "INSERT INTO orders (id, doc, user_id) VALUES (?1, ?2, '')", id, order)?;
        lay.execute("UPDATE orders SET user_id = ?2 WHERE id = ?1", [id, &order.user_id])?;
    }
    lay.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(lay.commit()?)
}

const SCHEMA: &str = "
CREATE TABLE users (
  id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, first TEXT NOT NULL, last TEXT NOT NULL, zip TEXT NOT NULL, doc TEXT NOT NULL
) STRICT;
CREATE INDEX users_by_name ON users (first, last, zip);
CREATE TABLE products (id TEXT PRIMARY KEY, name TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
CREATE TABLE variants (item TEXT PRIMARY KEY, product TEXT NOT NULL REFERENCES products) STRICT;
CREATE TABLE orders (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
CREATE TABLE writes (
  key TEXT PRIMARY KEY, user_id TEXT NOT NULL, tool TEXT NOT NULL, order_id TEXT NOT NULL, doc TEXT NOT NULL
) STRICT;
CREATE TABLE transfers (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, summary TEXT NOT NULL) STRICT;
";

fn user(database: &Transaction<'_>, who: &Proven<Customer>) -> Result<User, ShopError> {
    document(database, "SELECT doc FROM users WHERE id = ?1", &[&who.claims().user_id])
}

fn order(database: &Transaction<'_>, who: &Proven<Customer>, id: &str) -> Result<Order, ShopError> {
    document(database, "SELECT doc FROM orders WHERE id = ?1 AND user_id = ?2", &[id, &who.claims().user_id])
}

fn document<T: DeserializeOwned>(database: &Transaction<'_>, sql: &str, by: &[&str]) -> Result<T, ShopError> {
    maybe(database, sql, by)?.ok_or(ShopError::NotFound)
}

fn maybe<T: DeserializeOwned>(database: &Transaction<'_>, sql: &str, by: &[&str]) -> Result<Option<T>, ShopError> {
    let mut found = database.prepare_cached(sql)?;
    let text: Option<String> = found.query_row(rusqlite::params_from_iter(by), |row| row.get(0)).optional()?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn all<T: DeserializeOwned>(database: &Connection, sql: &str) -> Result<BTreeMap<String, T>, ShopError> {
    let mut rows = database.prepare(sql)?;
    let rows = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| row.map_err(ShopError::from).and_then(|(id, text)| Ok((id, serde_json::from_str(&text)?)))).collect()
}

fn put<T: Serialize>(database: &Transaction<'_>, sql: &str, id: &str, record: &T) -> Result<(), ShopError> {
    database.execute(sql, [id, &serde_json::to_string(record)?])?;
    Ok(())
}

/// What this very request gave before.
fn done(database: &Transaction<'_>, who: &Proven<Customer>, request: &Request<'_>) -> Result<Option<Value>, ShopError> {
    let mut found = database.prepare_cached("SELECT user_id, tool, order_id, doc FROM writes WHERE key = ?1")?;
    let texts = |row: &rusqlite::Row<'_>| Ok::<[String; 4], _>([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
    let Some([user, tool, order, text]) = found.query_row([request.key], texts).optional()? else { return Ok(None) };
    if (user.as_str(), tool.as_str(), order.as_str()) != (&who.claims().user_id, request.tool, request.order) {
        return Err(ShopError::KeyReused);
    }
    Ok(Some(serde_json::from_str(&text)?))
}

fn note(
    database: &Transaction<'_>,
    who: &Proven<Customer>,
    request: &Request<'_>,
    given: &Value,
) -> Result<(), ShopError> {
    let row = params![request.key, who.claims().user_id, request.tool, request.order, given.to_string()];
    database.execute("INSERT INTO writes (key, user_id, tool, order_id, doc) VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
    Ok(())
}
