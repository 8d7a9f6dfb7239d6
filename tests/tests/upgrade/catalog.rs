//! Everything that an installation consists of, line by line.

use std::collections::BTreeSet;

use postgres::Client;

/// A list of rights as words, in order; where none was ever written, those that are there by default.
fn rights(acl: &str, kind: char, owner: &str) -> String {
    format!(
        "(SELECT string_agg(format('%s=%s%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                                   a.privilege_type, CASE WHEN a.is_grantable THEN '*' END), ' ' ORDER BY a.grantee::regrole::text, a.privilege_type)
          FROM aclexplode(coalesce({acl}, acldefault('{kind}', {owner}))) a)"
    )
}

/// Each query gives lines; object identifiers and the order of their making do not show.
fn queries() -> Vec<String> {
    let relation = rights("c.relacl", 'r', "c.relowner");
    let sequence = rights("c.relacl", 's', "c.relowner");
    let column = rights("a.attacl", 'c', "c.relowner");
    let function = rights("p.proacl", 'f', "p.proowner");
    let r#type = rights("t.typacl", 'T', "t.typowner");
    let schema = rights("n.nspacl", 'n', "n.nspowner");
    vec![
        "SELECT format('extension %s %s %s', extversion, extrelocatable, extnamespace::regnamespace) FROM pg_extension WHERE extname = 'pgmq_mail'".to_owned(),
        // What belongs to it.
        "SELECT 'member ' || pg_describe_object(classid, objid, objsubid) FROM pg_depend
         WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgmq_mail') AND deptype = 'e'".to_owned(),
        // What a dump takes along.
        "SELECT format('dumped %s %s', c::regclass, f) FROM pg_extension, unnest(extconfig, extcondition) AS u (c, f) WHERE extname = 'pgmq_mail'".to_owned(),
        format!(
            "SELECT format('relation %s %s %s %s %s %s %s', c.oid::regclass, c.relkind, c.relowner::regrole, c.relpersistence,
                           row(c.relrowsecurity, c.relforcerowsecurity), (SELECT array_agg(o ORDER BY o) FROM unnest(c.reloptions) o),
                           CASE c.relkind WHEN 'S' THEN {sequence} ELSE {relation} END)
             FROM pg_class c WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'v', 'S', 'c')"
        ),
        format!(
            "SELECT format('column %s.%s %s %s %s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                           a.attidentity, a.attgenerated, a.attstorage, pg_get_expr(d.adbin, d.adrelid), {column})
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
             WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'v', 'c') AND a.attnum > 0 AND NOT a.attisdropped"
        ),
        // The places of columns: who inserts without their names, and who reads with *, sees them.
        "SELECT format('columns %s %s', c.oid::regclass, (SELECT string_agg(a.attname, ' ' ORDER BY a.attnum) FROM pg_attribute a
                                                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
         FROM pg_class c WHERE c.relnamespace = 'mail'::regnamespace AND c.relkind IN ('r', 'v', 'c')".to_owned(),
        "SELECT format('constraint %s %s %s %s', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid))
         FROM pg_constraint WHERE connamespace = 'mail'::regnamespace".to_owned(),
        "SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relnamespace = 'mail'::regnamespace".to_owned(),
        "SELECT format('trigger %s %s', pg_get_triggerdef(t.oid), t.tgenabled) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = 'mail'::regnamespace AND NOT t.tgisinternal".to_owned(),
        "SELECT format('policy %s %s %s %s %s %s %s', polrelid::regclass, polname, polcmd, polpermissive,
                       (SELECT array_agg(r::regrole::text ORDER BY r::regrole::text) FROM unnest(polroles) r),
                       pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
         FROM pg_policy JOIN pg_class c ON c.oid = polrelid WHERE c.relnamespace = 'mail'::regnamespace".to_owned(),
        "SELECT format('view %s %s', oid::regclass, pg_get_viewdef(oid)) FROM pg_class WHERE relnamespace = 'mail'::regnamespace AND relkind = 'v'".to_owned(),
        "SELECT format('sequence %s %s', s.seqrelid::regclass, row(format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle))
         FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relnamespace = 'mail'::regnamespace".to_owned(),
        format!(
            "SELECT format('function %s %s %s %s', p.oid::regprocedure, p.proowner::regrole, {function}, pg_get_functiondef(p.oid))
             FROM pg_proc p WHERE p.pronamespace = 'mail'::regnamespace"
        ),
        format!(
            "SELECT format('type %s %s %s', t.oid::regtype, t.typowner::regrole, {type})
             FROM pg_type t WHERE t.typnamespace = 'mail'::regnamespace"
        ),
        format!(
            "SELECT format('schema %s %s', n.nspname, {schema})
             FROM pg_namespace n WHERE n.nspname = 'mail'"
        ),
        "SELECT format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
         FROM pg_description d JOIN pg_depend m ON (m.classid, m.objid) = (d.classoid, d.objoid)
         WHERE m.refclassid = 'pg_extension'::regclass AND m.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgmq_mail') AND m.deptype = 'e'".to_owned(),
        "SELECT 'comment on it: ' || obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'pgmq_mail'".to_owned(),
        // What a fresh installation holds.
        "SELECT 'rule ' || (to_jsonb(r) - 'id')::text FROM mail.reply_rule r".to_owned(),
        "SELECT format('role %s %s', rolname, row(rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit))
         FROM pg_roles WHERE rolname LIKE 'mail\\_%'".to_owned(),
        "SELECT 'may connect: ' || a.grantee::regrole FROM pg_database d, aclexplode(d.datacl) a
         WHERE d.datname = current_database() AND a.grantee::regrole::text LIKE 'mail\\_%'".to_owned(),
    ]
}

/// The lines of all queries.
pub fn catalog(client: &mut Client) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for query in queries() {
        let rows = client
            .query(&query, &[])
            .unwrap_or_else(|error| panic!("{query}: {error:?}"));
        assert!(!rows.is_empty(), "it looks at something: {query}");
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}
