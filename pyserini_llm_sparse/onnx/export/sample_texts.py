"""Texts that an export is verified on if no corpus is named: of many subjects, lengths and scripts."""

from __future__ import annotations

PARAGRAPHS = (
    "The lift of a wing grows with the square of the air speed. At a high angle of attack the flow separates from "
    "the upper surface, the lift breaks down, and the aircraft stalls.",
    "Insulin is a hormone that lets cells take up glucose. In type 1 diabetes the immune system destroys the cells "
    "that make it; in type 2 the body answers to it less and less.",
    "An inverted index lists, for every term, the documents in which it occurs. A query needs only the lists of its "
    "own terms, which is why search engines answer within milliseconds.",
    "Köln liegt am Rhein und wurde im Jahr 50 von den Römern zur Stadt erhoben. Der Dom, 157 Meter hoch, wurde erst "
    "1880 vollendet.",
    "Le pain de seigle se conserve plus longtemps que le pain blanc, parce qu'il retient mieux l'humidité.",
    "東京は日本の首都であり、世界で最も人口の多い都市圏の一つである。",
    "Water boils at 100 °C at sea level, but at about 71 °C on the summit of Mount Everest, where the pressure of the "
    "air is a third of that below.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    "
    "return sum(values) / len(values)",
    "The court held that a contract signed under duress is voidable by the party who was threatened, and that silence "
    "for a reasonable time does not amount to consent.",
    "Penicillin was found in 1928 by chance: a mould on a forgotten culture dish had killed the bacteria round it. It "
    "took more than ten years until enough could be made to treat a patient.",
    "Central banks raise interest rates when prices climb too fast. Loans become dearer, firms and households spend "
    "less, and with some delay inflation slows down.",
    "How long do honey bees live? A worker that hatches in summer lives about six weeks, one that hatches in autumn up "
    "to six months, and a queen for several years.",
    "Message queues decouple the service that produces work from those that consume it; if a consumer fails, the "
    "message is delivered again, so handling it twice must do no harm.",
    "Earthquakes under the sea can lift the water above them. In the open ocean the wave is hardly noticed; near the "
    "coast it slows down and rises to a tsunami of many metres.",
    "2024-03-18 09:41:07 ERROR worker-12 timeout after 30000 ms while calling https://api.example.org/v2/orders?id=5512",
    "Lithium-ion cells lose capacity when they are kept hot and full. For storage, a charge of 40 to 60 percent at a "
    "cool temperature is best.",
    "The sonnet has fourteen lines. Petrarch's form sets an octave against a sestet; Shakespeare's has three quatrains "
    "and ends with a couplet.",
    "Vaccines train the immune system with a harmless part of a virus or bacterium. When the real one arrives, memory "
    "cells recognise it, and antibodies are made within days.",
    "¿Por qué el cielo es azul? Las moléculas del aire dispersan más la luz de onda corta que la de onda larga.",
    "A transformer computes, for each position, a weighted sum over the other positions; with a causal mask only over "
    "the earlier ones, so that it can be trained to predict the next token.",
    "cells",
    "solar panel efficiency",
    "Tomatoes need six hours of sun a day, a soil that drains well, and water at the roots rather than on the leaves.",
    "The harbour was mined, the bridges were down, and the relief convoy, eleven ships in all, lay off the cape for "
    "three days until the fog lifted.",
)

DOCUMENTS = (*PARAGRAPHS, " ".join(PARAGRAPHS[:6]), " ".join(PARAGRAPHS))  # the last fills any maximum length
