"""Ordinary prose, in which nothing can be looked up; of our own writing."""

PROSE = (
    "The ferry left late because the harbour master could not find his spectacles. Two goats, a piano and the "
    "bishop's luggage had been loaded before anybody noticed that the gangway was still attached, and when the engine "
    "started it tore away with a groan. Nobody was hurt, though a crate of lemons rolled into the water and floated "
    "out past the lighthouse, where children in a rowing boat collected them in a hat.",
    "My grandmother kept bees behind the railway embankment and spoke of each hive as if it were a difficult cousin. "
    "In dry summers she carried water to them in a kettle. She claimed that trains passing at night made the honey "
    "darker; my uncle, who drove one of those trains, said it was the chestnut blossom, and they argued about it at "
    "every wedding until both had forgotten who had started.",
    "A good map leaves things out. The surveyors who walked this valley drew neither fences nor footpaths, only where "
    "streams begin and how steep the ground becomes, and for that reason their sheets remain useful a century later. "
    "Newer ones show car parks that have closed, an inn that burned down, and a bridge which the council never built "
    "despite three separate announcements in the local newspaper.",
    "When the orchestra returned from tour, half of the violins had swollen with damp. Repairing them took an elderly "
    "craftsman most of February, working beside a stove with the door shut, and he refused to be hurried. Musicians "
    "came by with cake, hoping for news. He would lift an instrument, tap its back, listen, shake his head, and put "
    "the kettle on without saying a single word.",
)
QUESTION = "Write a short paragraph about something you remember.\n"
