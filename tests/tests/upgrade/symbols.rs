//! The library has every symbol that the SQL of a released version names.

use std::fs;

use pgmq_mail_tests::{Database, shared};

#[test]
fn every_symbol_of_released_sql_is_in_the_library() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/released");
    let database = Database::empty(shared());
    let mut client = database.connect();
    let mut looked_at = 0;
    for script in fs::read_dir(folder).expect("it is there") {
        let script = script.expect("it can be read").path();
        let sql = fs::read_to_string(&script).expect("it is text");
        for place in sql.split("'MODULE_PATHNAME', '").skip(1) {
            let symbol = place.split('\'').next().expect("there is a first");
            // Declaring it looks it up.
            let declared = client.batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS trigger LANGUAGE c AS '$libdir/pgmq_mail', '{symbol}'"
            ));
            assert!(declared.is_ok(), "{}: {declared:?}", script.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 20, "it finds them");
}
