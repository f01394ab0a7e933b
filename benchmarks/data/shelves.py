"""Names for the items of a market, so that its log reads like that of a grocer."""

from __future__ import annotations

from typing import NamedTuple

_SHELVES = """
Drinks / Coffee
    espresso beans, filter coffee, decaf beans, mocha blend, house roast
    instant coffee, coffee pods, iced latte, cold brew, cappuccino sachets
Drinks / Tea
    green tea, earl grey, assam, darjeeling, sencha
    peppermint tea, rooibos, camomile tea, fruit infusion, ginger tea
Drinks / Juice
    orange juice, apple juice, grape juice, pear juice, tomato juice
    mango smoothie, berry smoothie, carrot juice, beetroot juice, green smoothie
Drinks / Soft drinks
    cola, lemonade, ginger ale, tonic water, orange soda
    sparkling water, still water, iced tea, energy drink, elderflower spritz
Drinks / Beer
    pilsner, wheat beer, lager, pale ale, bock
    stout, porter, alcohol-free beer, cider, shandy
Fresh / Fruit
    apples, bananas, pears, grapes, oranges
    strawberries, blueberries, kiwis, mangoes, pineapple
Fresh / Vegetables
    tomatoes, cucumber, carrots, broccoli, spinach
    courgettes, peppers, onions, potatoes, mushrooms
Fresh / Cheese
    cheddar, gouda, emmental, parmesan, manchego
    brie, feta, mozzarella, goat cheese, cream cheese
Fresh / Yogurt
    plain yogurt, greek yogurt, skyr, kefir, quark
    strawberry yogurt, vanilla yogurt, cherry yogurt, soy yogurt, honey yogurt
Fresh / Fish
    salmon fillet, cod fillet, trout, tuna steak, herring
    prawns, smoked salmon, mussels, fish cakes, mackerel
Fresh / Meat
    chicken breast, turkey slices, chicken wings, duck legs, minced turkey
    beef mince, pork chops, sirloin steak, lamb shoulder, bacon
Pantry / Pasta
    spaghetti, penne, fusilli, tagliatelle, lasagne sheets
    tomato sauce, basil pesto, arrabbiata sauce, carbonara sauce, gnocchi
Pantry / Bread
    sourdough loaf, rye bread, baguette, wholemeal loaf, ciabatta
    burger buns, bagels, pita bread, croissants, crispbread
Pantry / Breakfast cereal
    muesli, porridge oats, granola, bran flakes, oat clusters
    corn flakes, chocolate hoops, puffed rice, honey loops, wheat biscuits
Pantry / Chocolate
    dark chocolate, milk chocolate, hazelnut chocolate, white chocolate, orange chocolate
    pralines, chocolate truffles, cocoa wafers, caramel bars, chocolate raisins
Pantry / Crisps
    salted crisps, paprika crisps, vinegar crisps, vegetable crisps, kettle chips
    tortilla chips, pretzels, popcorn, rice crackers, roasted peanuts
Pantry / Spices
    black pepper, sea salt, paprika powder, cumin, turmeric
    oregano, basil leaves, chilli flakes, cinnamon, bay leaves
Household / Cleaning
    dish soap, dishwasher tablets, glass cleaner, bathroom spray, floor cleaner
    laundry powder, fabric softener, stain remover, wool detergent, colour detergent
Household / Body care
    shower gel, shampoo, hand soap, conditioner, bath salts
    toothpaste, mouthwash, deodorant, hand cream, sun lotion
Household / Pet food
    dog biscuits, puppy food, beef dog food, chew sticks, lamb dog food
    cat food with tuna, kitten food, cat treats, cat food with chicken, dry cat food
"""


class Shelf(NamedTuple):
    """A category and its goods."""

    department: str
    category: str
    goods: tuple[tuple[str, ...], tuple[str, ...]]
    """Goods of each of the two types."""


def _shelf(lines: list[str]) -> Shelf:
    department, category = lines[0].split(" / ")
    first, second = (tuple(line.strip().split(", ")) for line in lines[1:])
    return Shelf(department, category, (first, second))


_LINES = _SHELVES.strip().splitlines()
SHELVES = tuple(_shelf(_LINES[at : at + 3]) for at in range(0, len(_LINES), 3))
"""The shelves of the shop, one for each category of a market."""
BRANDS = ("Alder", "Brightwell", "Corner Farm", "Dunmore", "Everyday")
"""Makers; each of them sells every kind of goods once."""
