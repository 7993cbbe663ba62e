//! Words of the sample data: what is sold, where, and to whom.

/// A category of products.
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) nouns: [&'static str; 6],
    /// Cheapest and dearest, in cents.
    pub(super) cents: (i64, i64),
    /// Demand in percent, by quarter of the year.
    pub(super) season: [u64; 4],
}

/// A store.
pub(super) struct Store {
    pub(super) city: &'static str,
    pub(super) place: &'static str,
    pub(super) country: &'static str,
    pub(super) region: &'static str,
}

const fn store(city: &'static str, place: &'static str, country: &'static str, region: &'static str) -> Store {
    Store { city, place, country, region }
}

pub(super) const CATEGORIES: [Category; 8] = [
    Category {
        name: "Books",
        nouns: ["Atlas", "Cookbook", "Field Guide", "Novel", "Notebook", "Poems"],
        cents: (490, 6_900),
        season: [95, 90, 95, 130],
    },
    Category {
        name: "Clothing",
        nouns: ["Coat", "Gloves", "Jumper", "Scarf", "Shirt", "Socks"],
        cents: (790, 24_900),
        season: [100, 95, 90, 120],
    },
    Category {
        name: "Électronique",
        nouns: ["Camera", "Headphones", "Lamp", "Radio", "Speaker", "Watch"],
        cents: (1_990, 129_900),
        season: [90, 85, 95, 150],
    },
    Category {
        name: "Garden",
        nouns: ["Bulbs", "Gnome", "Hose", "Planter", "Rake", "Seeds"],
        cents: (290, 18_900),
        season: [90, 180, 110, 40],
    },
    Category {
        name: "Groceries",
        nouns: ["Coffee", "Honey", "Olives", "Pasta", "Rice", "Tea"],
        cents: (190, 3_900),
        season: [105, 100, 95, 105],
    },
    Category {
        name: "Home & Kitchen",
        nouns: ["Blanket", "Bowl", "Kettle", "Knife", "Mirror", "Pan"],
        cents: (590, 39_900),
        season: [100, 95, 95, 125],
    },
    Category {
        name: "Sport",
        nouns: ["Ball", "Bottle", "Mat", "Racket", "Rope", "Tent"],
        cents: (490, 54_900),
        season: [110, 125, 115, 75],
    },
    Category {
        name: "Toys",
        nouns: ["Blocks", "Doll", "Kite", "Puzzle", "Robot", "Train"],
        cents: (390, 19_900),
        season: [70, 80, 85, 210],
    },
];

pub(super) const STYLES: [&str; 10] =
    ["Alpine", "Classic", "Compact", "Everyday", "Grand", "Handmade", "Modern", "Pocket", "Travel", "Vintage"];

/// Some products bear no brand.
pub(super) const BRANDS: [Option<&str>; 8] = [
    Some("Ærø"),
    Some("Bär & Söhne"),
    Some("Łódź Works"),
    Some("O'Malley"),
    Some("Pão Doce"),
    Some("Ümit"),
    Some("山田"),
    None,
];

pub(super) const STORES: [Store; 24] = [
    store("London", "King's Cross", "United Kingdom", "Europe"),
    store("New York", "Bleecker Street", "United States", "Americas"),
    store("Berlin", "Schönhauser Allee", "Germany", "Europe"),
    store("東京", "銀座", "Japan", "Asia Pacific"),
    store("Paris", "Rue de Rivoli", "France", "Europe"),
    store("São Paulo", "Avenida Paulista", "Brazil", "Americas"),
    store("Chicago", "Wicker Park", "United States", "Americas"),
    store("Sydney", "The Rocks", "Australia", "Asia Pacific"),
    store("Zürich", "Bahnhofstraße", "Switzerland", "Europe"),
    store("Toronto", "Kensington Market", "Canada", "Americas"),
    store("Singapore", "Tiong Bahru", "Singapore", "Asia Pacific"),
    store("Madrid", "Malasaña", "Spain", "Europe"),
    store("København", "Nørrebro", "Denmark", "Europe"),
    store("Ciudad de México", "Coyoacán", "Mexico", "Americas"),
    store("서울", "홍대", "South Korea", "Asia Pacific"),
    store("Dublin", "O'Connell Street", "Ireland", "Europe"),
    store("Mumbai", "Colaba", "India", "Asia Pacific"),
    store("Johannesburg", "Maboneng", "South Africa", "Middle East & Africa"),
    store("Kraków", "Kazimierz", "Poland", "Europe"),
    store("Dubai", "Al Fahidi", "United Arab Emirates", "Middle East & Africa"),
    store("Buenos Aires", "San Telmo", "Argentina", "Americas"),
    store("İstanbul", "Beyoğlu", "Türkiye", "Middle East & Africa"),
    store("Auckland", "Ponsonby", "New Zealand", "Asia Pacific"),
    store("Nairobi", "Westlands", "Kenya", "Middle East & Africa"),
];

pub(super) const FIRST_NAMES: [&str; 24] = [
    "Aisha", "Ana", "Björn", "Chiara", "Dmitri", "Élodie", "Fatima", "George", "Hana", "Íñigo", "Jürgen", "Kwame",
    "Lucía", "Mei", "Niamh", "Olu", "Priya", "Quentin", "Rosa", "Søren", "Tomás", "Wanjiru", "Zoë", "陽子",
];

pub(super) const LAST_NAMES: [&str; 24] = [
    "Ångström",
    "Baker",
    "Çelik",
    "D'Angelo",
    "Evans",
    "Fischer",
    "García",
    "Hughes",
    "Ivanova",
    "Jensen",
    "Kim",
    "Łukasz",
    "Müller",
    "Nguyễn",
    "O'Neill",
    "Patel",
    "Quispe",
    "Rossi",
    "Silva",
    "Tanaka",
    "Usman",
    "van der Berg",
    "Wójcik",
    "Yılmaz",
];
