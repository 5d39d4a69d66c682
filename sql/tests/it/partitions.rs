//! Partitions are there when they are needed, whatever has become of some of them.

use sql::testing::TestDb;
use tokio_postgres::Client;

/// Asks for the partitions that are missing; answers with how many were made.
async fn mend(client: &Client, interval: &str) -> i32 {
    client
        .query_one("select relayforge.ensure_partitions($1)", &[&interval])
        .await
        .unwrap()
        .get(0)
}

/// Start and end of the partitions of `jobs`, in days from this one's start.
async fn days(client: &Client) -> Vec<(i32, i32)> {
    client
        .query(
            "select extract(day from p.from_at - d.today)::integer, extract(day from p.to_at - d.today)::integer
               from relayforge.list_partitions() p,
                    (select date_trunc('day', clock_timestamp(), 'UTC') as today) d
              where p.parent = 'jobs'
              order by p.from_at",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

/// Drops the partition of `jobs` that begins that many days from today.
async fn drop_day(client: &Client, day: i32) {
    let partition: String = client
        .query_one(
            "select p.partition from relayforge.list_partitions() p
              where p.parent = 'jobs'
                and p.from_at = date_trunc('day', clock_timestamp(), 'UTC') + make_interval(days => $1)",
            &[&day],
        )
        .await
        .unwrap()
        .get(0);
    client
        .batch_execute(&format!("drop table store.{partition}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn holes_are_filled_and_nothing_else_is_made() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client.batch_execute("set timezone = 'UTC'").await.unwrap();
    let whole: Vec<(i32, i32)> = (-1..15).map(|day| (day, day + 1)).collect();
    assert_eq!(days(&client).await, whole);
    assert_eq!(mend(&client, "day").await, 0);

    for holes in [vec![0], vec![1], vec![14], vec![5, 6, 9], vec![0, 1, 14]] {
        for day in &holes {
            drop_day(&client, *day).await;
        }
        let made = usize::try_from(mend(&client, "day").await).unwrap();
        assert_eq!(
            (made, days(&client).await),
            (holes.len(), whole.clone()),
            "{holes:?}"
        );
    }
    let end = "select relayforge.partitions_end() > clock_timestamp() + interval '14 days'";
    assert!(client.query_one(end, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_clock_that_was_ahead_leaves_no_hole_for_later() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client.batch_execute("set timezone = 'UTC'").await.unwrap();
    client
        .query(
            "select relayforge.ensure_partitions('day', 14, clock_timestamp() + interval '300 days')",
            &[],
        )
        .await
        .unwrap();
    drop_day(&client, 14).await;
    assert_eq!(mend(&client, "day").await, 1, "not up to the ones of next year");
    let ahead = days(&client).await.iter().filter(|(from, _)| *from > 200).count();
    assert_eq!(ahead, 16);
}

#[tokio::test]
async fn days_and_weeks_meet_without_overlap() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client.batch_execute("set timezone = 'UTC'").await.unwrap();
    drop_day(&client, 3).await;
    for interval in ["week", "day", "week"] {
        mend(&client, interval).await;
        let all = days(&client).await;
        assert!(
            all.windows(2).all(|pair| pair[0].1 == pair[1].0),
            "{interval}: {all:?}"
        );
        assert!(all.last().unwrap().1 >= 14, "{interval}: {all:?}");
        drop_day(&client, all.last().unwrap().0).await;
    }
}

/// A partition that somebody dropped, or detached and kept under its name.
#[tokio::test]
async fn a_hole_is_when_the_table_runs_out_and_a_detached_one_is_in_nobodys_way() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client.batch_execute("set timezone = 'UTC'").await.unwrap();
    drop_day(&client, 5).await;
    let query = "select distinct h.table_name, extract(day from h.runs_out_at - date_trunc('day', clock_timestamp(), 'UTC'))::integer
                   from relayforge.partition_health h order by 1";
    let runs_out = async || -> Vec<(String, i32)> {
        let rows = client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let until = |day| {
        [("job_log", 15), ("jobs", day), ("webhook_inbox", 15)].map(|(table, day)| (table.to_owned(), day))
    };
    assert_eq!(runs_out().await, until(5));
    assert_eq!(mend(&client, "day").await, 1);
    let partition: String = client
        .query_one(
            "select p.partition from relayforge.list_partitions() p
              where p.parent = 'jobs' and p.from_at = date_trunc('day', clock_timestamp(), 'UTC') + interval '7 days'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    client
        .batch_execute(&format!(
            "alter table store.jobs detach partition store.{partition}"
        ))
        .await
        .unwrap();
    assert_eq!(runs_out().await, until(7));
    assert_eq!(mend(&client, "day").await, 1);
    assert_eq!(runs_out().await, until(15));
}
