"""An app that inspects photographs of steel; `pelton simulate surfaces` makes up both streams."""

from pipeline import App, DefectTask, ImageField, Stream

photos = Stream(
    "photos", id="photo_id", time="ts", fields={"line": "string", "image": ImageField(size=128, channels=1)}
)
inspections = Stream("inspections", id="photo_id", time="inspected_at", fields={"defect": "string"})

defect = DefectTask(
    "defect", on=photos, image=photos.image, label=inspections.defect, sound="none", recall=0.98, quarter_turns=False,
    entity="line",
)  # fmt: skip
app = App("steel", tasks=[defect])
