//! An index: a map in insertion order, as Python's `dict`, shared by processes.

use larder::{Index, Side};

fn main() -> larder::Result<()> {
    let ages = Index::<String, u32>::temporary()?; // or Index::open("some/dir")
    ages.extend([
        ("Ada".to_owned(), 36),
        ("Grace".to_owned(), 85),
        ("Alan".to_owned(), 41),
    ])?;
    ages.insert("Ada", &37)?; // keeps its place
    ages.move_to_end("Grace")?;
    for entry in ages.iter()? {
        let (name, age) = entry?;
        println!("{name}: {age}");
    }
    println!("first {:?}, last {:?}", ages.first()?, ages.last()?);
    println!("removed: {:?}", ages.remove("Alan")?);
    println!("made: {}", ages.get_or_insert_with("Kurt", || 71)?);

    // Values without a name of their own get one.
    let key = ages.push(Some("guest"), &50, Side::Back)?;
    println!("{key}: {:?}", ages.pull(Some("guest"), Side::Front)?);

    // Each result is computed once, whoever asks.
    let lengths = Index::<String, usize>::of(ages.cache(), "lengths")?;
    let length = lengths.memoize(|word| {
        println!("counting {word}");
        word.len()
    });
    let word = "antidisestablishmentarianism".to_owned();
    println!("{} {}", length(&word)?, length(&word)?);
    Ok(())
}
