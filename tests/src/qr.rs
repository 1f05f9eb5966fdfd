//! Reads a QR code from a terminal, as a telephone's camera does.

use rqrr::PreparedImage;

/// Pixels for the side of a module: less is too small for the reader's search.
const PIXELS: usize = 4;

/// What the code says that is drawn in half blocks, light on dark.
#[track_caller]
pub fn scanned(picture: &str) -> String {
    let rows: Vec<Vec<char>> = picture.lines().map(|line| line.chars().collect()).collect();
    let width = rows.first().map_or(0, Vec::len);
    let is_light = |x: usize, y: usize| match rows.get(y / 2).and_then(|row| row.get(x)) {
        Some('█') => true,
        Some('▀') => y.is_multiple_of(2),
        Some('▄') => !y.is_multiple_of(2),
        Some(_) | None => false,
    };
    let mut image =
        PreparedImage::prepare_from_greyscale(width * PIXELS, rows.len() * 2 * PIXELS, |x, y| {
            if is_light(x / PIXELS, y / PIXELS) {
                u8::MAX
            } else {
                0
            }
        });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "one code:\n{picture}");
    let (_, said) = grids[0].decode().expect("the code can be read");
    said
}
