//! Words and lists of the TPC-H specification (clauses 4.2.2 and 4.2.3).

/// Regions, by key.
pub(super) const REGIONS: [&str; 5] = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];

/// Nations, by key, with the keys of their regions.
pub(super) const NATIONS: [(&str, i32); 25] = [
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
];

pub(super) const SEGMENTS: [&str; 5] = ["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"];
pub(super) const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
pub(super) const INSTRUCTIONS: [&str; 4] = ["COLLECT COD", "DELIVER IN PERSON", "NONE", "TAKE BACK RETURN"];
pub(super) const MODES: [&str; 7] = ["AIR", "FOB", "MAIL", "RAIL", "REG AIR", "SHIP", "TRUCK"];

/// The three words of a part's type.
pub(super) const TYPES: [&[&str]; 3] = [
    &["ECONOMY", "LARGE", "MEDIUM", "PROMO", "SMALL", "STANDARD"],
    &["ANODIZED", "BRUSHED", "BURNISHED", "PLATED", "POLISHED"],
    &["BRASS", "COPPER", "NICKEL", "STEEL", "TIN"],
];

/// The two words of a container.
pub(super) const CONTAINERS: [&[&str]; 2] =
    [&["JUMBO", "LG", "MED", "SM", "WRAP"], &["BAG", "BOX", "CAN", "CASE", "DRUM", "JAR", "PACK", "PKG"]];

/// Five of them make the name of a part.
pub(super) const COLOURS: &str = "\
    almond antique aquamarine azure beige bisque black blanched blue blush brown burlywood burnished chartreuse \
    chiffon chocolate coral cornflower cornsilk cream cyan dark deep dim dodger drab firebrick floral forest frosted \
    gainsboro ghost goldenrod green grey honeydew hot indian ivory khaki lace lavender lawn lemon light lime linen \
    magenta maroon medium metallic midnight mint misty moccasin navajo navy olive orange orchid pale papaya peach peru \
    pink plum powder puff purple red rose rosy royal saddle salmon sandy seashell sienna sky slate smoke snow spring \
    steel tan thistle tomato turquoise violet wheat white yellow";

/// What comments are made of; `special` and `requests` come in any order and distance.
pub(super) const COMMENT_WORDS: &str = "\
    above accounts across according after against along asymptotes blithely bold braids brave busy carefully courts \
    daring deposits dolphins dugouts even express final fluffily foxes furiously haggle ideas instructions ironic nag \
    packages pending pinto platelets quickly regular requests sentiments silent sleep slyly special theodolites \
    unusual wake warthogs waters x-ray";
