//! The entry `*` of a provider stands for models that nobody here knows, so it must cost at least what the dearest known one
//! does, in whatever a call can be billed by. Takes the entries of a book; gives the first that `*` is below.

use super::{BookError, Model, Tier};
use crate::meter::Provider;
use crate::money::{Factor, UnitPrice};
use std::collections::HashMap;
use std::sync::Arc;

/// Whose models run on the operator's own machines, where no provider can bring out a dearer one.
const OWN: [Provider; 3] = [Provider::Ollama, Provider::Vllm, Provider::Other];

/// Whether a price of this name is a guess, whatever the entry says.
pub(super) fn is_guess(provider: Provider, names: &[String]) -> bool {
    !OWN.contains(&provider) && names.iter().any(|name| name == "*")
}

/// Whether each `*` is at least the dearest of its provider.
pub(super) fn check(models: &HashMap<(Provider, Arc<str>), Arc<Model>>) -> Result<(), BookError> {
    let mut found: Vec<(&str, &str, &str)> = Vec::new();
    for ((provider, name), any) in models {
        if &**name != "*" || OWN.contains(provider) {
            continue;
        }
        let known = models.iter().filter(|((other, _), _)| other == provider);
        let below = known.filter_map(|((_, name), model)| Some((provider.name(), &**name, below(any, model)?)));
        found.extend(below);
    }
    match found.into_iter().min() {
        None => Ok(()),
        Some((provider, name, what)) => {
            Err(BookError::Below { provider: provider.to_owned(), model: name.to_owned(), what: what.to_owned() })
        }
    }
}

/// In what `any` is below `model`, for the calls that both are for.
fn below(any: &Model, model: &Model) -> Option<&'static str> {
    if !any.operations.iter().any(|operation| model.operations.contains(operation)) {
        return None;
    }
    // What `any` does not have is refused: images, searches and the dearer speed.
    let less = |own: Option<u64>, other: Option<u64>| own.zip(other).is_some_and(|(own, other)| own < other);
    let cheaper = |own: UnitPrice, other: UnitPrice| other.is_dearer(own);
    let searches = any.web_search.is_some() && model.web_search.is_some();
    let smaller = |own: Factor, other: Factor| other.is_more(own);
    [
        ("max_input", any.max_input < model.max_input),
        ("max_output", any.max_output < model.max_output),
        ("image_tokens", less(any.image_tokens, model.image_tokens)),
        // Without it a search may add as much as fits.
        ("search_tokens", searches && less(any.search_tokens, Some(model.search_tokens.unwrap_or(u64::MAX)))),
        ("web_search", any.web_search.zip(model.web_search).is_some_and(|(own, other)| cheaper(own, other))),
        ("geo_us", smaller(any.geo_us, model.geo_us)),
        ("fast", any.fast.zip(model.fast).is_some_and(|(own, other)| smaller(own, other))),
    ]
    .into_iter()
    .find_map(|(what, below)| below.then_some(what))
    .or_else(|| rate_below(any, model))
}

/// Which price of `any` is below that of `model`, at any tier that `model` is sold at and any length of input.
fn rate_below(any: &Model, model: &Model) -> Option<&'static str> {
    let lengths: Vec<u64> =
        any.rows.iter().chain(&model.rows).flat_map(|row| [row.above, row.above.saturating_add(1)]).collect();
    let tiers = [Tier::Standard, Tier::Flex, Tier::Priority, Tier::Ultrafast].into_iter();
    let mut places =
        tiers.filter(|tier| model.sells(*tier)).flat_map(|tier| lengths.iter().map(move |input| (tier, *input)));
    places.find_map(|(tier, input)| {
        let (own, other) = (any.rates(tier, input)?, model.rates(tier, input)?);
        [
            ("input", own.input, other.input),
            ("cache_read", own.cache_read, other.cache_read),
            ("cache_write", own.cache_write, other.cache_write),
            ("cache_write_long", own.cache_write_long, other.cache_write_long),
            ("output", own.output, other.output),
        ]
        .into_iter()
        .find_map(|(what, own, other)| other.is_dearer(own).then_some(what))
    })
}

#[cfg(test)]
mod tests {
    use super::super::PriceBook;
    use super::*;

    /// `*` beside one known model, both of `provider`; each is given what follows its names.
    fn book(provider: &str, any: &str, known: &str) -> Result<PriceBook, BookError> {
        let entry = |name: &str, rest: &str| {
            format!("[[model]]\nprovider='{provider}'\nnames=['{name}']\noperations=['chat']\nsource='x'\n{rest}\n")
        };
        PriceBook::parse(&format!("version='1'\n{}{}", entry("*", any), entry("known", known)))
    }

    const KNOWN: &str = "max_input=100\nmax_output=10\nimage_tokens=5\nweb_search='3'\nsearch_tokens=9\ngeo_us='1.1'\n\
                         fast='2'\nrates=[{tier='standard',input='2',output='4'},\
                         {tier='standard',above=50,input='4',output='8'},{tier='priority',input='3',output='6'}]";
    const ANY: &str = "max_input=100\nmax_output=10\nimage_tokens=5\nweb_search='3'\nsearch_tokens=9\ngeo_us='1.1'\n\
                       fast='2'\nrates=[{tier='standard',input='4',output='8'}]";

    #[test]
    fn what_stands_for_unknown_models_is_at_least_the_dearest() -> Result<(), BookError> {
        assert!(book("openai", ANY, KNOWN)?.price(Provider::OpenAi, "new").is_some_and(|model| model.assumed));
        for (what, from, to) in [
            ("max_input", "max_input=100", "max_input=99"),
            ("max_output", "max_output=10", "max_output=9"),
            ("image_tokens", "image_tokens=5", "image_tokens=4"),
            ("web_search", "web_search='3'", "web_search='2.9'"),
            ("search_tokens", "search_tokens=9", "search_tokens=8"),
            ("geo_us", "geo_us='1.1'", "geo_us='1.09'"),
            ("fast", "fast='2'", "fast='1.9'"),
            ("input", "input='4'", "input='3.9'"),
            ("output", "output='8'", "output='7.9'"),
            ("cache_read", "input='4'", "input='4',cache_read='3.9'"),
            ("cache_write", "input='4'", "input='4',cache_write='3.9',cache_write_long='4'"),
            ("cache_write_long", "input='4'", "input='4',cache_write_long='3.9'"),
        ] {
            assert!(ANY.contains(from), "{from}");
            let found = book("openai", &ANY.replace(from, to), KNOWN).map(drop);
            let Err(BookError::Below { model, what: said, .. }) = found else { panic!("{what}: {found:?}") };
            assert_eq!((model.as_str(), said.as_str()), ("known", what));
        }
        // What it does not have is refused to unknown models, so there is nothing to be below.
        let plain = "max_input=100\nmax_output=10\ngeo_us='1.1'\nrates=[{tier='standard',input='4',output='8'}]";
        assert!(book("openai", plain, KNOWN).is_ok());
        Ok(())
    }

    #[test]
    fn an_operators_own_server_has_the_prices_that_it_has() -> Result<(), BookError> {
        let cheap = "max_input=100\nmax_output=10\nrates=[{tier='standard',input='1',output='1'}]";
        assert!(book("vllm", cheap, KNOWN)?.price(Provider::Vllm, "new").is_some_and(|model| !model.assumed));
        assert!(book("mistral", cheap, KNOWN).is_err());
        Ok(())
    }
}
