use super::*;

#[test]
fn v49_what_is_smaller_than_the_cpus_page_serves_as_that() {
    let (small, page, large) = (512, PAGE_SIZE, 2 << 20);
    let cases: [(&[u64], u64); 10] = [
        (&[], !(page - 1)),
        (&[page | large], page | large),
        (&[small | page | large], page | large),
        (&[small | page], page),
        (&[small | large], page | large),
        (&[small], page),
        (&[small | page, small | large], page),
        (&[page | large, large], large),
        (&[page | large, page], page),
        // Nothing in common is as on x86.
        (&[page, large], PageSizes::X86.bitmap()),
    ];
    for (domains, common) in cases {
        let sizes = page_sizes(domains.iter().filter_map(|bitmap| PageSizes::from_bitmap(*bitmap)));
        assert_eq!(sizes.bitmap(), common, "{domains:#x?}");
    }
}
