#pragma once
class G4Event;
class G4UserEventAction {
public:
    virtual ~G4UserEventAction() = default;
    virtual void BeginOfEventAction(const G4Event*) {}
    virtual void EndOfEventAction(const G4Event*) {}
};
