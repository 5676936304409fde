//! Ids at their end.

use super::*;

#[test]
fn f4_the_last_id_is_given_and_none_behind_it() {
    let mut numbers = Numbers { fresh: LAST - 1, ..Numbers::default() };
    assert_eq!((numbers.take(), numbers.take()), (Ok(LAST), Err(NoIdsError)));
    for number in [9, LAST, 7] {
        numbers.give_back(number);
    }
    assert_eq!([(); 4].map(|()| numbers.take()), [Ok(7), Ok(9), Ok(LAST), Err(NoIdsError)]);
}
