//! A report as people read it: text and a page.

use super::*;

#[tokio::test]
async fn an_empty_period_is_told_as_such_in_every_form() {
    let (_database, mut connection) = filled().await;
    for subject in [Subject::Fleet, Subject::Agent("nobody".into()), Subject::User("nobody".into())] {
        let report =
            computed(&mut connection, Period::holding(Kind::Week, day("2020-01-01")), &subject).await;
        let body = report.body().unwrap();
        assert!(body.is_empty());
        assert_eq!(body.series.len(), 7);
        assert!(text(&body).contains("Nothing was seen"));
        assert!(html(&body).unwrap().contains("Nothing was seen"));
    }
    // a silent fleet is not an empty page: who is missing is told
    let body = computed(&mut connection, Period::holding(Kind::Day, day("2026-01-08")), &Subject::Fleet)
        .await
        .body()
        .unwrap();
    assert_eq!((body.coverage.silent.len(), body.coverage.hours_expected), (3, Some(72)));
}

#[tokio::test]
async fn a_name_cannot_command_the_terminal() {
    let (_database, mut connection) = filled().await;
    let name = "update program_starts set process_name = E'vim\\x1b[2J\\nall is well' where username = 'bob'";
    connection.execute(name).await.unwrap();
    let text = text(&computed(&mut connection, tuesday(), &Subject::Fleet).await.body().unwrap());
    assert!(!text.contains('\u{1b}') && text.contains("vim [2J all is well"), "{text}");
}

#[tokio::test]
async fn the_page_holds_every_section_and_nothing_from_elsewhere() {
    let (_database, mut connection) = filled().await;
    let report = computed(&mut connection, tuesday(), &Subject::Fleet).await;
    let page = html(&report.body().unwrap()).unwrap();
    assert_eq!(page.matches("<svg").count(), 5, "course of activity, load and alerts; two patterns");
    for section in [
        "Course",
        "Activity and work load",
        "Load of the machines",
        "Programs",
        "Alerts",
        "Coverage",
        "Eight weeks",
    ] {
        assert!(page.contains(&format!("<h2>{section}")), "{section}");
    }
    assert!(page.contains("vim &lt;b&gt;") && !page.contains("vim <b>"), "what a machine sent is escaped");
    for foreign in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let text = text(&report.body().unwrap());
    for told in ["45 min", "pc-b", "forbidden-program", "silent: pc-c", "+100 % against the week before"] {
        assert!(text.contains(told), "{told}:\n{text}");
    }
}
