use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use arrow::record_batch::RecordBatch;

use super::*;
use crate::plan::{CachedPlan, PlanError};

fn lists() -> Arc<Lists> {
    let mut lists = Lists::default();
    lists.insert("forbidden", List::parse("# tools\nMimikatz.exe  # credentials\n\nc#.exe\n"));
    lists.insert("places", List::parse("C:\\Windows\n/usr\n"));
    lists.insert("broken", List::parse("not/absolute\n"));
    Arc::new(lists)
}

fn evaluate_on(array: ArrayRef, expression: &str) -> Result<ArrayRef, PlanError> {
    let schema = Arc::new(Schema::new(vec![Field::new("path", array.data_type().clone(), true)]));
    let functions = Functions::with_lists(&lists());
    let sql = format!("SELECT {expression} AS result FROM events");
    let mut plan = CachedPlan::new(&sql, "events", Arc::clone(&schema), &functions)?;
    let result = plan.run(RecordBatch::try_new(schema, vec![array]).unwrap())?;
    Ok(Arc::clone(result.column(0)))
}

/// Evaluates over every kind of text column and checks that they agree.
fn evaluate(rows: &[Option<&str>], expression: &str) -> ArrayRef {
    let narrow = evaluate_on(Arc::new(rows.iter().collect::<StringArray>()), expression).unwrap();
    let view = evaluate_on(Arc::new(rows.iter().collect::<StringViewArray>()), expression).unwrap();
    assert_eq!(&narrow, &view, "{expression}");
    narrow
}

fn texts_of(array: &ArrayRef) -> Vec<Option<&str>> {
    array.as_string::<i32>().iter().collect()
}

fn booleans_of(array: &ArrayRef) -> Vec<Option<bool>> {
    array.as_boolean().iter().collect()
}

#[test]
fn path_class_and_basename_over_columns() {
    let rows = [Some(r"C:\Windows\x.exe"), None, Some("/tmp/y")];
    assert_eq!(texts_of(&evaluate(&rows, "path_class(path)")), [Some("system"), None, Some("temp")]);
    assert_eq!(texts_of(&evaluate(&rows, "basename(path)")), [Some("x.exe"), None, Some("y")]);
}

#[test]
fn functions_of_literals() {
    let one = [Some("x")];
    assert_eq!(texts_of(&evaluate(&one, "path_class('/tmp/y')")), [Some("temp")]);
    assert_eq!(booleans_of(&evaluate(&one, "is_under('/tmp/y', '/tmp')")), [Some(true)]);
    assert_eq!(texts_of(&evaluate(&one, "program_name('A.EXE', path)")), [Some("a.exe")]);
}

#[test]
fn is_under_takes_directories_and_lists() {
    let rows = [Some(r"c:\WINDOWS\System32\x.exe"), Some("/usr/bin/y"), Some("/opt/z"), None];
    let either = evaluate(&rows, r"is_under(path, 'C:\Windows', '/opt')");
    assert_eq!(booleans_of(&either), [Some(true), Some(false), Some(true), None]);
    let listed = evaluate(&rows, "is_under(path, '@places')");
    assert_eq!(booleans_of(&listed), [Some(true), Some(true), Some(false), None]);
    let directly = evaluate(&rows, r"is_in(path, 'C:\Windows', '/usr/bin')");
    assert_eq!(booleans_of(&directly), [Some(false), Some(true), Some(false), None]);
}

#[test]
fn in_list_ignores_case_and_comments() {
    let rows = [Some("MIMIKATZ.exe"), Some("mimikatz.exe"), Some("C#.exe"), Some("# tools"), Some(""), None];
    let expected = [Some(true), Some(true), Some(true), Some(false), Some(false), None];
    assert_eq!(booleans_of(&evaluate(&rows, "in_list(path, 'forbidden')")), expected);
}

#[test]
fn patterns_match_anywhere_and_take_flags() {
    let rows = [Some("xmrig --Donate-Level 1"), Some("a\nb"), Some(""), None];
    let matches = |of: &str| booleans_of(&evaluate(&rows, of));
    assert_eq!(
        matches("regexp_like(path, '--donate-[a-z]+', 'i')"),
        [Some(true), Some(false), Some(false), None]
    );
    assert_eq!(matches("regexp_like(path, '--donate')"), [Some(false), Some(false), Some(false), None]);
    assert_eq!(matches("regexp_like(path, '^b$', 'm')"), [Some(false), Some(true), Some(false), None]);
    assert_eq!(matches("regexp_like('abc', 'b')"), [Some(true); 4]);
}

#[test]
fn names_are_lowered_for_windows_only() {
    let rows = [Some(r"C:\Tools\NC.EXE"), Some("/opt/Tools/NC"), None];
    assert_eq!(texts_of(&evaluate(&rows, "program_name(NULL, path)")), [Some("nc.exe"), Some("NC"), None]);
    assert_eq!(
        texts_of(&evaluate(&rows, "program_name(' Net Cat ', path)")),
        [Some("net cat"), Some("Net Cat"), Some("Net Cat")]
    );
}

#[test]
fn entropy_is_in_bits_per_character() {
    let array = evaluate(&[Some("aaaa"), Some("abcd"), Some(""), Some("яя"), None], "entropy(path)");
    let values: Vec<_> = array.as_primitive::<Float64Type>().iter().collect();
    assert_eq!(values, [Some(0.0), Some(2.0), Some(0.0), Some(0.0), None]);
    assert_eq!(array.data_type(), &DataType::Float64);
}

#[test]
fn what_a_function_cannot_use_is_refused_at_planning() {
    let cases = [
        ("in_list(path, 'absent')", "no list 'absent'"),
        ("in_list(path, path)", "as a literal"),
        ("is_under(path)", "at least one directory"),
        ("is_under(path, path)", "as literals"),
        ("is_under(path, 'not/absolute')", "not an absolute directory"),
        ("is_in(path, '@absent')", "no list 'absent'"),
        ("is_in(path, '@broken')", "in the list 'broken'"),
        ("regexp_like(path, 'a(')", "cannot use the pattern 'a('"),
        ("regexp_like(path, path)", "as literals"),
        ("regexp_like(path, 'a', 'q')", "no flag 'q'"),
        ("path_class(1 = 1)", "path_class"),
        ("nosuch(path)", "nosuch"),
    ];
    for (expression, says) in cases {
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some("x")]));
        let error = evaluate_on(column, expression).unwrap_err().to_string();
        assert!(error.contains(says), "{expression}: {error}");
    }
}
