use super::*;

#[test]
fn v54_a_set_lasts_as_long_as_somebody_is_in_it() {
    let sets = DeviceSets::default();
    let named = |name: &str| sets.join(&DeviceSetId::Named(name.into()));
    let one = named("one");
    let two = named("two");
    assert!(Arc::ptr_eq(&named("one"), &one) && Arc::ptr_eq(&named("two"), &two) && !Arc::ptr_eq(&one, &two));
    assert!(!Arc::ptr_eq(&sets.join(&DeviceSetId::Alone), &sets.join(&DeviceSetId::Alone)));
    drop(one);
    let three = named("three");
    assert_eq!(sets.0.lock().keys().map(|name| &**name).collect::<Vec<_>>(), ["three", "two"]);
    drop((two, three));
}
