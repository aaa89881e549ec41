"""A small set of questions about Harnwick, a town that there is not.

documents_qa asks them when no data set is named: no download is needed.
"""

from typing import Any

_PARAGRAPHS = """
Bridge: The old bridge has seven arches. It was built by the mason Odo Pell.
Mill: The mill on the Tarn grinds rye. Its miller, Greta Voss, keeps three cats.
Bakery: Ines Holt bakes at four in the morning. Her best loaf holds walnuts.
Library: The library has nine thousand books. The oldest of them is about bees.
School: The school stands on Gander Hill. Its headmaster, Tobin Ames, sings.
Clock: The town clock runs six minutes late. Nobody has mended it since 1931.
Ferry: The ferry crosses the Tarn every half hour. Its captain is Bruno Lyle.
Market: The market is held on Thursdays. People come for the smoked eel.
Tower: The red tower is forty metres high. A lamp of green glass hangs in it.
Inn: The inn is called the Silver Pike. It has twelve rooms and a blue door.
Doctor: Selma Quist came from the island of Orr. She visits the sick by bicycle.
Forest: The forest of Brenn lies east of the town. Its oldest tree is an oak.
Theatre: The first theatre burned down in 1888. The new one seats two hundred.
Brewery: The brewery makes juniper beer. It belongs to the Marrow sisters.
Post: The post office opens at nine. A grey mule carries letters to the hills.
Team: The football team plays in yellow. It has lost to Eastmere eleven times.
River: The Tarn rises in the Colden hills. It freezes about once in ten years.
Chapel: Ada Finch painted the ceiling of the chapel. Its bell is cracked.
Railway: The railway came in 1874. The last train to Eastmere leaves at eight.
Garden: The public garden has a pond with carp. Lotte Brandt planted its roses.
"""
_QUESTIONS = """
Bridge: How many arches does the old bridge have? seven
Bridge: Who built the old bridge? Odo Pell
Mill: What does the mill grind? rye
Mill: Who is the miller? Greta Voss
Bakery: Who bakes at four in the morning? Ines Holt
Bakery: What does the best loaf of the bakery hold? walnuts
Library: How many books does the library have? nine thousand
Library: What is the oldest book about? bees
School: On which hill does the school stand? Gander Hill
School: Who is the headmaster? Tobin Ames
Clock: How late does the town clock run? six minutes
Clock: When was the clock mended last? 1931
Ferry: How often does the ferry cross? every half hour
Ferry: Who is the captain of the ferry? Bruno Lyle
Market: On which day is the market held? Thursdays
Market: What do people come to the market for? the smoked eel
Tower: How high is the red tower? forty metres
Tower: What is the lamp in the tower made of? green glass
Inn: What is the inn called? the Silver Pike
Inn: What colour is the door of the inn? blue
Doctor: Which island did Selma Quist come from? Orr
Doctor: How does Selma Quist visit the sick? by bicycle
Forest: Which forest lies east of the town? Brenn
Forest: What is the oldest tree of the forest? an oak
Theatre: When did the first theatre burn down? 1888
Theatre: How many does the new theatre seat? two hundred
Brewery: What beer does the brewery make? juniper beer
Brewery: To whom does the brewery belong? the Marrow sisters
Post: When does the post office open? nine
Post: What carries letters to the hills? grey mule
Team: What colour does the football team play in? yellow
Team: How often has the team lost to Eastmere? eleven times
River: Where does the Tarn rise? the Colden hills
River: How often does the Tarn freeze? once in ten years
Chapel: Who painted the ceiling of the chapel? Ada Finch
Chapel: What is cracked in the chapel? bell
Railway: When did the railway come? 1874
Railway: When does the last train leave? eight
Garden: What lives in the pond of the garden? carp
Garden: Who planted the roses of the garden? Lotte Brandt
Mill, River: Where does the river of Greta Voss's mill rise? the Colden hills
Ferry, River: Who crosses the river that rises in the Colden hills? Bruno Lyle
"""


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Paragraphs and questions, as those of data/qa_sets.py."""
  pairs = [line.split(": ", 1) for line in _PARAGRAPHS.strip().splitlines()]
  paragraphs = [{"title": title, "text": text} for title, text in pairs]
  number = {title: k for k, (title, _) in enumerate(pairs)}
  questions = []
  for k, line in enumerate(_QUESTIONS.strip().splitlines()):
    titles, text = line.split(": ", 1)
    question, _, answer = text.partition("? ")
    evidence = [number[title] for title in titles.split(", ")]
    questions.append(
      {
        "id": f"q{k}",
        "question": f"{question}?",
        "answers": [answer],
        "paragraphs": evidence,
        "evidence": evidence,
      }
    )
  return paragraphs, questions
