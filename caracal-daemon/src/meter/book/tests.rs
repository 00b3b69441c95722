//! The built-in book, and books with a fault.

use super::*;
use crate::money::Bill;

#[test]
fn the_built_in_book_has_the_agents_default_models() -> Result<(), BookError> {
    let book = PriceBook::built_in()?;
    for name in
        ["claude-opus-4-8", "claude-haiku-4-5", "claude-haiku-4-5-20251001", "claude-opus-5-5", "claude-sonnet-5-5"]
    {
        assert!(book.model(Provider::Anthropic, name).is_some_and(|model| !model.assumed), "{name}");
    }
    for name in ["gpt-6.1-sol", "gpt-6.2-sol", "gpt-5.4-mini", "gpt-4.1", "text-embedding-3-small"] {
        assert!(book.model(Provider::OpenAi, name).is_some(), "{name}");
    }
    assert!(book.model(Provider::OpenAi, "claude-opus-4-8").is_none());
    assert!(book.id().starts_with("2026-11-30@") && book.id().len() == 27);
    Ok(())
}

#[test]
fn a_longer_input_moves_the_whole_request() -> Result<(), BookError> {
    let book = PriceBook::built_in()?;
    let model = book.model(Provider::OpenAi, "gpt-6.1-sol").ok_or(BookError::Incomplete("gpt-6.1-sol".into()))?;
    let price =
        |tier, input| model.rates(tier, input).map(|rates| Bill::default().plus(1_000_000, rates.input).round_up().0);
    assert_eq!(price(Tier::Standard, 272_000), Some(2_000_000_000));
    assert_eq!(price(Tier::Standard, 272_001), Some(4_000_000_000));
    assert_eq!(price(Tier::Priority, 272_001), Some(8_000_000_000));
    let model = book.model(Provider::OpenAi, "gpt-5.4").ok_or(BookError::Incomplete("gpt-5.4".into()))?;
    let priority =
        model.rates(Tier::Priority, 300_000).map(|rates| Bill::default().plus(1_000_000, rates.output).round_up().0);
    assert_eq!(priority, Some(30_000_000_000), "a tier without long prices: the dearer of both");
    Ok(())
}

#[test]
fn an_entrys_hash_moves_with_its_price_and_with_nothing_else() -> Result<(), BookError> {
    let hash = |price: &str, more: &str| {
        let rates = format!("rates=[{{tier='standard',input='{price}',output='1'}}]\n");
        let book = PriceBook::parse(&format!("version='1'\n{ENTRY}{rates}{more}"))?;
        Ok::<_, BookError>(book.model(Provider::OpenAi, "a").map(|model| model.entry.to_string()))
    };
    let other = ENTRY.replace("['a']", "['b']") + "rates=[{tier='standard',input='1',output='1'}]\n";
    assert_eq!(hash("1", "")?, hash("1", &other)?);
    assert_ne!(hash("1", "")?, hash("2", "")?);
    assert_eq!(hash("1", "")?.map(|hash| hash.len()), Some(16));
    Ok(())
}

const ENTRY: &str =
    "[[model]]\nprovider='openai'\nnames=['a']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\n";

#[test]
fn a_book_with_a_fault_is_refused() {
    let rates = "rates=[{tier='standard',input='1',output='1'}]\n";
    let book = |body: &str| PriceBook::parse(&format!("version='1'\n{body}"));
    assert!(book(&format!("{ENTRY}{rates}")).is_ok());
    assert!(matches!(book(&format!("{ENTRY}{rates}{ENTRY}{rates}")), Err(BookError::Twice(_))));
    assert!(matches!(book(&format!("{ENTRY}typo=1\n{rates}")), Err(BookError::Syntax(_))));
    assert!(matches!(book(ENTRY), Err(BookError::Syntax(_))));
    assert!(matches!(
        book(&format!("{ENTRY}rates=[{{tier='flex',input='1',output='1'}}]")),
        Err(BookError::Incomplete(_))
    ));
    assert!(matches!(
        book(&format!("{ENTRY}rates=[{{tier='standard',input='1e-6',output='1'}}]")),
        Err(BookError::Number { .. })
    ));
    assert!(matches!(
        book(&format!("{ENTRY}rates=[{{tier='standard',input=1.0,output='1'}}]")),
        Err(BookError::Syntax(_))
    ));
}
