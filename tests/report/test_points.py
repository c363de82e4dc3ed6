"""Numbers on a scatter plot can be read, however close their points lie."""

import itertools
import math
import re

from polycycle.report.points import Point, scatter, spread

BOX = (60.0, 500.0, 40.0, 240.0)


def nearest(places):
    """The smallest distance between any two."""
    return min(math.dist(a, b) for a, b in itertools.combinations(places, 2))


def test_places_that_do_not_cover_each_other_stay():
    places = [(100.0, 100.0), (119.0, 100.0), (300.0, 200.0)]
    assert spread(places, apart=19, box=BOX) == places


def test_places_that_cover_each_other_are_moved_apart_within_the_box():
    crowd = [(499.0, 41.0)] * 9 + [(495.0 - i, 45.0) for i in range(9)]
    moved = spread(crowd, apart=19, box=BOX)
    assert nearest(moved) > 18.5
    assert all(BOX[0] <= x <= BOX[1] and BOX[2] <= y <= BOX[3] for x, y in moved)
    assert moved == spread(crowd, apart=19, box=BOX)  # a page drawn again is the same page


def test_a_moved_number_is_tied_to_its_point():
    def draw(*places):
        points = [Point(number=i, title=str(i), x=x, y=y) for i, (x, y) in enumerate(places)]
        return scatter(points, x_title="x", y_title="y", label="a plot")

    far, near = draw((0, 0), (1, 1), (2, 5)), draw((0, 0), (1, 1), (1, 1), (2, 5))
    assert far.count('class="leader"') == 0
    assert near.count('class="leader"') == near.count('class="place"') == 2
    begins = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)"[^>]*class="leader"', near)
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*class="place"', near)
    assert begins == dots
    assert len(set(dots)) == 1  # both points lie there
