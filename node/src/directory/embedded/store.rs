//! The directory's file: every change is on the disk before it is answered.

use std::path::{Path, PathBuf};

use meander::PortId;
use meander_core::directory::{Change, Record};
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};

use super::wire::Role;
use crate::Error;

const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROLE: &str = "role";

/// The open file. Only one process at a time can have it open.
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Store, Error> {
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)
                .map_err(Error::io(format!("making {}", directory.display())))?;
        }
        let database = Database::create(path).map_err(broken(path))?;
        let store = Store {
            path: path.into(),
            database,
        };
        // The tables exist from the start, so that reading an empty one is no special case.
        let write = store.database.begin_write().map_err(broken(path))?;
        write.open_table(RECORDS).map_err(broken(path))?;
        write.open_table(META).map_err(broken(path))?;
        write.commit().map_err(broken(path))?;
        Ok(store)
    }

    /// All records.
    pub fn records(&self) -> Result<Vec<(PortId, Record)>, Error> {
        let read = self.database.begin_read().map_err(self.broken())?;
        let table = read.open_table(RECORDS).map_err(self.broken())?;
        let mut records = Vec::new();
        for row in table.iter().map_err(self.broken())? {
            let (port, bytes) = row.map_err(self.broken())?;
            let record = postcard::from_bytes(bytes.value()).map_err(self.broken())?;
            records.push((PortId(port.value()), record));
        }
        Ok(records)
    }

    /// What this node is to the directory; `None` in a new file.
    pub fn role(&self) -> Result<Option<Role>, Error> {
        let read = self.database.begin_read().map_err(self.broken())?;
        let table = read.open_table(META).map_err(self.broken())?;
        let row = table.get(ROLE).map_err(self.broken())?;
        row.map(|bytes| postcard::from_bytes(bytes.value()).map_err(self.broken()))
            .transpose()
    }

    /// Makes a role durable.
    pub fn set_role(&self, role: &Role) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(self.broken())?;
        self.put_role(&write, role)?;
        write.commit().map_err(self.broken())
    }

    /// Makes a role durable together with all the records there are from now on.
    pub fn replace(&self, role: &Role, records: &[(PortId, Record)]) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(self.broken())?;
        write.delete_table(RECORDS).map_err(self.broken())?;
        {
            let mut table = write.open_table(RECORDS).map_err(self.broken())?;
            for (port, record) in records {
                let bytes = postcard::to_stdvec(record).map_err(self.broken())?;
                table
                    .insert(port.0, bytes.as_slice())
                    .map_err(self.broken())?;
            }
        }
        self.put_role(&write, role)?;
        write.commit().map_err(self.broken())
    }

    /// Makes a change durable.
    pub fn apply(&self, change: &Change) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(self.broken())?;
        {
            let mut table = write.open_table(RECORDS).map_err(self.broken())?;
            if let Some(forget) = change.forget {
                table.remove(forget.0).map_err(self.broken())?;
            }
            let bytes = postcard::to_stdvec(&*change.record).map_err(self.broken())?;
            table
                .insert(change.port.0, bytes.as_slice())
                .map_err(self.broken())?;
        }
        write.commit().map_err(self.broken())
    }

    fn put_role(&self, write: &WriteTransaction, role: &Role) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(role).map_err(self.broken())?;
        let mut table = write.open_table(META).map_err(self.broken())?;
        table
            .insert(ROLE, bytes.as_slice())
            .map_err(self.broken())?;
        Ok(())
    }

    fn broken<E: std::fmt::Display>(&self) -> impl Fn(E) -> Error {
        broken(&self.path)
    }
}

fn broken<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> Error {
    move |error| Error::Store {
        path: path.into(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use meander_core::Epoch;
    use meander_core::directory::{Directory, Ending, Reply, Request};

    use super::*;
    use crate::directory::an_entry;

    /// `[R23]`
    #[test]
    fn what_was_answered_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/directory.redb");
        let port = PortId(5);
        let entry = an_entry(Epoch(2));
        let mut first = Directory::default();
        {
            let store = Store::open(&path).unwrap();
            assert!(Store::open(&path).is_err(), "opened twice");
            let request = Request::Register {
                port,
                entry: entry.clone(),
            };
            let (_, change) = first.handle(request);
            store.apply(&change.unwrap()).unwrap();
        }
        let store = Store::open(&path).unwrap();
        let mut second = Directory::from_records(store.records().unwrap());
        assert_eq!(
            second.handle(Request::Lookup { port }).0,
            Reply::Found(Some(entry))
        );
        let (_, change) = second.handle(Request::Remove {
            port,
            epoch: Epoch(2),
            ending: Ending::Left,
        });
        store.apply(&change.unwrap()).unwrap();
        let mut third = Directory::from_records(store.records().unwrap());
        assert_eq!(
            third.handle(Request::Lookup { port }).0,
            Reply::Ended(Ending::Left)
        );
    }
}
