"""What `pelton demo` runs: three tasks in one app. Each stands in a file of its own, which is an app as well."""

from ops.demo.payments import risk
from ops.demo.support import support
from ops.demo.surfaces import defect
from pipeline import App

app = App("demo", tasks=[risk, support, defect])
